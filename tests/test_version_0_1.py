"""Runs, a sweep and checkpoints of version 0.1.0 are read, reported, evaluated and resumed.

fixtures/version_0_1/README.md says how they were made.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from in_process import atlas_bench, no_plots

from atlas_bench.artifacts.records import read_record
from atlas_bench.cli import sweep as sweep_cli
from atlas_bench.cli.report import main as report
from atlas_bench.evaluation.loading import load_run

FIXTURES = Path(__file__).parent / "fixtures" / "version_0_1"
CPU = [
    "logger=none", "hardware.device=cpu", "hardware.threads=1", "scale.width=16", "scale.layers=1",
    "scale.heads=2", "scale.memory_heads=2", "scale.memory_key_dim=4",
]  # fmt: skip
MQAR = [
    "task=mqar", "task.grid=[{length:32,pairs:4}]", "task.vocab_size=64", "task.train_examples=32",
    "task.test_examples=8", "training.min_sequences=8", "training.epochs=2",
    "training.validate_every=3", "training.checkpoint_every=2", "training.warmup_steps=2",
]  # fmt: skip
RUN = ["model=titans", *MQAR, *CPU]
SWEEP = ["-m", "seed=0,1,2", "model=deltanet", *MQAR, *CPU]
LEARNED = ("step", "tokens", "loss", "answer_accuracy", "gradient_norm", "valid_accuracy")
UNKNOWN = "spread"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the fixtures in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(FIXTURES, tmp_path / "runs"))


def metrics(path: Path) -> list[list[float]]:
    """Those that depend on what was learned; nan for one that a step does not have."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [[line.get(key, math.nan) for key in LEARNED] for line in lines]


def same_metrics(path: Path, expected: Path) -> bool:
    """Whether both say the same, up to what another processor's arithmetic changes."""
    found, wanted = metrics(path), metrics(expected)
    return len(found) == len(wanted) and all(
        one == pytest.approx(other, rel=1e-3, abs=1e-6, nan_ok=True)
        for one, other in zip(found, wanted, strict=True)
    )


def change_memory(run: Path, key: str, value: Any = None) -> None:
    """Set ``model.memory.KEY`` in a run's config.json, or remove it where ``value`` is None."""
    path = run / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    memory = config["model"]["memory"]
    if value is None:
        del memory[key]
    else:
        memory[key] = value
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


# reading -----------------------------------------------------------------------------------


def test_records_are_read(runs: Path) -> None:
    read = {
        str(path.parent.relative_to(runs)): read_record(path) for path in runs.rglob("record.json")
    }
    assert {name: (record.model, record.task) for name, record in read.items()} == {
        "finished_babilong": ("atlas", "babilong"),
        "finished_lm": ("titans_mag", "lm"),
        "finished_lm/evaluations/commonsense": ("titans_mag", "commonsense"),
        "unfinished_sweep/0-deltanet-mqar": ("deltanet", "mqar"),
    }
    (perplexity, *_) = read["finished_lm"].scores
    assert (perplexity.metric, perplexity.samples) == ("perplexity", 1550)
    assert perplexity.value == pytest.approx(841.8, abs=0.1)
    assert len(read["finished_lm"].validation) > 0


def test_they_are_reported(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with no_plots():
        assert report([str(runs), "--output", "report"]) == 0
    table = Path("report/table.md").read_text(encoding="utf-8")
    for shown in ("babilong", "commonsense", "titans_mag", "deltanet", "841.8"):
        assert shown in table
    assert "2 runs without a record" in capsys.readouterr().err


def test_the_sweep_is_listed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_cli.main([str(runs / "unfinished_sweep")]) == 0
    shown = capsys.readouterr().out
    for each in ("1 of 3 jobs done", "unfinished", "missing", "best of 1 for deltanet"):
        assert each in shown


# evaluating --------------------------------------------------------------------------------


def test_a_checkpoint_gives_the_same_answers(runs: Path) -> None:
    run = runs / "finished_babilong"
    words = ["mode=eval", f"checkpoint={run}", "task.lengths=[0k,1k]", "task.samples=2"]
    assert atlas_bench(*words, *CPU[:3], "hydra.run.dir=again") == 0
    predictions = [(each / "predictions.jsonl").read_text() for each in (Path("again"), run)]
    assert predictions[0] == predictions[1]
    again, before = read_record(Path("again/record.json")), read_record(run / "record.json")
    assert [score.value for score in again.scores] == [score.value for score in before.scores]
    assert (again.parameters, again.state_bytes) == (before.parameters, before.state_bytes)
    assert again.config["trained_on"]["text"]["vocab_size"] == 512


def test_a_language_model_has_the_same_perplexity(runs: Path) -> None:
    run = runs / "finished_lm"
    words = ["mode=eval", f"checkpoint={run}", "task=lm", "task.lengths=[64,256]"]
    words.append("task.held_out_characters=3000")
    assert atlas_bench(*words, *CPU[:3], "hydra.run.dir=again") == 0
    again, before = read_record(Path("again/record.json")), read_record(run / "record.json")
    assert [score.value for score in again.scores] == pytest.approx(
        [score.value for score in before.scores], rel=1e-4
    )


def test_lm_eval_loads_a_checkpoint(runs: Path) -> None:
    loaded = load_run(runs / "finished_babilong")
    assert loaded.tokenizer.vocab_size == 512
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 11200


# resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_a_killed_run_ends_as_it_would_have(runs: Path, named: bool) -> None:
    run = runs / "unfinished_mqar"
    resume = f"resume={run}" if named else "resume=true"
    assert atlas_bench(*RUN, resume, f"output_dir={runs}") == 0
    assert same_metrics(run / "metrics.jsonl", runs / "unfinished_mqar.expected.jsonl")
    assert read_record(run / "record.json").train_tokens == 2 * 32 * 32


def test_another_config_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert atlas_bench(*RUN, "seed=1", f"resume={runs / 'unfinished_mqar'}") == 2
    assert "seed was 0 there and is 1 here" in capsys.readouterr().err


@pytest.mark.parametrize("named", [True, False])
def test_a_killed_sweep_does_what_is_missing(runs: Path, named: bool) -> None:
    sweep = runs / "unfinished_sweep"
    resume = f"resume={sweep}" if named else "resume=true"
    done = (sweep / "0-deltanet-mqar" / "record.json").read_bytes()
    assert atlas_bench(*SWEEP, resume, f"output_dir={runs}") == 0
    assert (sweep / "0-deltanet-mqar" / "record.json").read_bytes() == done
    for number in range(3):
        job = sweep / f"{number}-deltanet-mqar"
        expected = runs / f"unfinished_sweep.expected_{number}.jsonl"
        assert same_metrics(job / "metrics.jsonl", expected), job
        assert read_record(job / "record.json").seed == number


def test_a_run_from_before_branch_norm_is_resumed(runs: Path) -> None:
    run = runs / "unfinished_mqar"
    change_memory(run, "branch_norm")
    assert atlas_bench(*RUN, f"resume={run}") == 0
    assert same_metrics(run / "metrics.jsonl", runs / "unfinished_mqar.expected.jsonl")


def test_a_sweep_from_before_branch_norm_is_resumed(runs: Path) -> None:
    sweep = runs / "unfinished_sweep"
    for number in (0, 1):
        change_memory(sweep / f"{number}-deltanet-mqar", "branch_norm")
    assert atlas_bench(*SWEEP, f"resume={sweep}") == 0


# a key that nobody knows -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "words"),
    [
        pytest.param(
            "finished_babilong",
            ["mode=eval", "checkpoint=RUN", "task.lengths=[0k]", "task.samples=1", *CPU[:3]],
            id="eval",
        ),
        pytest.param(
            "unfinished_mqar",
            [*RUN, "resume=RUN"],
            id="resume",
        ),
    ],
)
def test_an_unknown_key_is_named(
    run: str, words: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_memory(runs / run, UNKNOWN, 1)
    assert atlas_bench(*(word.replace("RUN", str(runs / run)) for word in words)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert UNKNOWN in line


def test_an_unknown_key_is_named_by_lm_eval(runs: Path) -> None:
    change_memory(runs / "finished_babilong", UNKNOWN, 1)
    with pytest.raises(ValueError, match=UNKNOWN):
        load_run(runs / "finished_babilong")


def test_an_unknown_key_is_named_by_a_sweep(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = runs / "unfinished_sweep"
    change_memory(sweep / "1-deltanet-mqar", UNKNOWN, 1)
    assert atlas_bench(*SWEEP, f"resume={sweep}") == 1
    assert f"{sweep / '1-deltanet-mqar'}" in (said := capsys.readouterr().err)
    assert UNKNOWN in said
