"""Suites end to end on fixtures, through lm-eval's own definitions, without a network."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from atlas_bench.artifacts.records import read_record
from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.lm_eval import suites
from atlas_bench.evaluation.lm_eval.model import AtlasBenchLM
from atlas_bench.evaluation.lm_eval.recall_data import load
from atlas_bench.report.render import render
from atlas_bench.report.tables import score_tables
from atlas_bench.runs.execute import execute
from atlas_bench.tasks.suites.task import AVERAGED, SUBTASKS
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.text.tokenizer import train_tokenizer

MODEL = [
    "model=deltanet", "model.match=none", "scale.width=16", "scale.heads=2", "mode=eval",
    "logger=none", "hardware.device=cpu",
]  # fmt: skip


def run(folder: Path, checkpoint: Path, *overrides: str) -> Path:
    return execute(compose_settings([*MODEL, f"checkpoint={checkpoint}", *overrides]), folder)


def test_commonsense_has_the_papers_columns_and_says_that_it_is_no_result(
    run_folder: Path, tmp_path: Path
) -> None:
    record = read_record(run(tmp_path, run_folder, "task=commonsense"))
    assert record.task == "commonsense"
    scores = {(score.subtask, score.metric): score for score in record.scores}
    wanted = {(f"{name} (fixture)", "accuracy") for name in (*AVERAGED, "average")}
    wanted |= {(f"{name} (fixture)", "perplexity") for name in ("wikitext", "lambada_openai")}
    assert set(scores) == wanted
    values = [scores[f"{name} (fixture)", "accuracy"].value for name in AVERAGED]
    average = scores["average (fixture)", "accuracy"]
    assert average.value == pytest.approx(sum(values) / 8)
    assert average.ci_low is None
    piqa = scores["piqa (fixture)", "accuracy"]
    assert piqa.samples == 5
    assert piqa.ci_low <= piqa.value <= piqa.ci_high
    assert scores["wikitext (fixture)", "perplexity"].value > 1
    assert record.protocol["data"] == "our own fixtures, no benchmark"
    assert record.protocol["metrics"]["hellaswag"] == ["acc_norm"]
    assert record.protocol["lm_eval_task_versions"]["piqa"] == "1.0"
    assert any("no benchmark results" in note for note in record.notes)
    text = render("tables.md", tables=score_tables([record]))
    lines = [line for line in text.splitlines() if "23.7k" in line]
    assert len(lines) == len(wanted)
    assert all("(fixture)" in line for line in lines)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    choices = next(row for row in rows if row["subtask"] == "piqa (fixture)")
    better = max(range(2), key=lambda i: choices["responses"][i][0])
    assert choices["acc"] == float(better == choices["target"])


def test_b11_a_stopped_suite_keeps_the_subtasks_that_are_scored(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subtasks = ["task=commonsense", "task.subtasks=[piqa,arc_easy]", "task.limit=2"]
    whole = read_record(run(tmp_path / "whole", run_folder, *subtasks))
    evaluate = suites._evaluate
    asked: list[str] = []

    def stopping(context: EvaluationContext, lm: Any, task: Any, limit: int | None) -> Any:
        asked.append(task.task_name)
        if len(asked) == 2:
            raise KeyError  # or whatever ends a process
        return evaluate(context, lm, task, limit)

    monkeypatch.setattr(suites, "_evaluate", stopping)
    with pytest.raises(KeyError):
        run(tmp_path / "cut", run_folder, *subtasks)
    resumed = read_record(run(tmp_path / "cut", run_folder, *subtasks, "resume=true"))
    assert asked == ["piqa", "arc_easy", "arc_easy"]
    values = [[(s.subtask, s.value, s.samples) for s in one.scores] for one in (whole, resumed)]
    assert values[0] == values[1]
    assert resumed.protocol == whole.protocol
    one, other = (tmp_path / name / "predictions.jsonl" for name in ("whole", "cut"))
    assert one.read_bytes() == other.read_bytes()


def test_recall_cuts_long_contexts_around_their_answer(run_folder: Path, tmp_path: Path) -> None:
    record = read_record(
        run(tmp_path, run_folder, "task=recall", "task.limit=1", "task.context_tokens=250")
    )
    assert {(s.subtask, s.metric) for s in record.scores} == {
        (f"{name} (fixture)", "accuracy")
        for name in ("swde", "based_nq", "based_drop", "fda", "squad_completion", "based_triviaqa")
    }
    assert all(score.samples == 1 for score in record.scores)
    assert record.protocol["context_tokens"] == 250
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    ((text, options),) = next(r for r in rows if r["subtask"].startswith("based_nq"))["arguments"]
    assert "The first keeper of Sandholm lighthouse was Edda Storm" in text
    assert text.endswith(". The first keeper of Sandholm lighthouse was")
    assert 190 < len(shared_tokenizer().encode(text)) < 230
    assert options["until"] == ["\n"]
    assert options["max_gen_toks"] == 48


def test_a_right_model_is_right(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are the answers', not the pipeline's: an oracle has 100 % of what it knows."""

    def oracle(self: AtlasBenchLM, requests: list) -> list[str]:
        return [
            " Brandt, who else." if "player who scored" in request.args[0] else " 11"
            for request in requests
        ]

    monkeypatch.setattr(AtlasBenchLM, "generate_until", oracle)
    overrides = ("task=recall", "task.subtasks=[based_drop]")
    (score,) = read_record(run(tmp_path, run_folder, *overrides)).scores
    assert (score.value, score.samples) == (0.5, 2)


def test_contexts_are_cut_in_tokens_of_whatever_model_is_asked(run_folder: Path) -> None:
    with contextlib.chdir(folder_of("tasks") / "fixtures"):
        (cut, short) = load("hazyresearch/based_nq_2048", checkpoint=str(run_folder))["validation"]
        with pytest.raises(ValueError, match="give checkpoint=RUN"):
            load("hazyresearch/based_nq_2048")
    tokens = len(shared_tokenizer().encode(cut["context"]))
    assert 1998 - 3 <= tokens <= 1998 + 3  # cutting a text may change how its end is tokenised
    assert short["context"].startswith("The chain ferry")


def test_every_subtask_has_a_fixture() -> None:
    """One row at least in every file, each marked as what it is."""
    folders = [path.parent for path in (folder_of("tasks") / "fixtures").glob("*/*/README.md")]
    assert len(folders) == len(SUBTASKS) - 1  # ARC's two are one data set
    for folder in folders:
        assert (
            f"Fixture, not the data of {folder.parent.name}/{folder.name}"
            in (folder / "README.md").read_text()
        )
        for file in folder.glob("*.jsonl"):
            assert len(file.read_text().splitlines()) >= 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=commonsense", "mode=train_eval", "checkpoint=null"], "has nothing to train on"),
        (["task=recall", "task.data=web"], r"task\.data=web is not one of fixtures, hub"),
        (["task=recall", "task.subtasks=[nq_open]"], r"task\.subtasks=nq_open is not one of"),
        (["task=recall", "task.limit=0"], r"task\.limit=0 must be at least 1"),
        (["task=recall", "task.context_tokens=50"], r"task\.context_tokens=50 must be at least 51"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    overrides: list[str], message: str, run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, run_folder, *overrides)


def test_another_tokenizer_than_the_models_is_refused(run_folder: Path, tmp_path: Path) -> None:
    other = shared_tokenizer().vocab_size
    path = train_tokenizer(other).save(tmp_path / "other")
    with pytest.raises(ConfigError, match="is not what the checkpoint was trained with"):
        run(tmp_path / "run", run_folder, "task=recall", f"text.tokenizer={path}")
