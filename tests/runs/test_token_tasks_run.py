"""MQAR and MAD end to end: trained in passes, stopped by validation, scored, recorded, resumed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import atlas_bench.runs.execute
import atlas_bench.runs.learners.language_model
import atlas_bench.runs.show
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.records import read_record
from atlas_bench.cli.command import read_command
from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.provenance import not_as_trained
from atlas_bench.runs.settings import RunSettings
from atlas_bench.training.loop import Trainer

QUICK = ["logger=none", "hardware.device=cpu", "hardware.threads=1", "training.min_sequences=16"]
MQAR = ["task=mqar", "task.grid=[{length:32,pairs:4}]", "task.vocab_size=64", "model=deltanet"]
SIZES = ["task.train_examples=64", "task.test_examples=20"]


def settings(*overrides: str) -> RunSettings:
    return compose_settings([*QUICK, *overrides])


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    # test_run.py looks at the plots
    monkeypatch.setattr(atlas_bench.runs.show, "draw_plots", lambda *arguments, **options: {})


def read(run: Path) -> tuple[dict, list[dict]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return json.loads((run / "record.json").read_text()), [json.loads(line) for line in lines]


def test_a_checkpoint_brings_its_own_model_and_scale(tmp_path: Path) -> None:
    """Whole, without a preset of their names; the command's own keys come on top."""
    own = ["model.name=mine", "model.memory.expansion=2", "scale.name=own", "scale.width=32"]
    trained = settings(*MQAR, *SIZES, "training.epochs=1", *own)
    atlas_bench.runs.execute.execute(trained, tmp_path)
    words = [*QUICK, *MQAR[:-1], *SIZES, "mode=eval", f"checkpoint={tmp_path}"]
    evaluated = read_command(words).settings
    assert (evaluated.model, evaluated.scale) == (trained.model, trained.scale)
    assert evaluated.name == "mine-mqar"
    atlas_bench.runs.execute.execute(evaluated, tmp_path / "again")
    values = [read_record(each / "record.json").scores for each in (tmp_path, tmp_path / "again")]
    assert values[0][0].value == values[1][0].value
    changed = read_command([*words, "scale.layers=1", "model.memory.chunk=64"]).settings
    assert changed.scale == replace(trained.scale, layers=1)
    assert changed.model.memory == replace(trained.model.memory, chunk=64)
    with pytest.raises(ConfigError, match=r"^model=deltanet is not what .*, model=mine; leave"):
        read_command([*words, "model=deltanet"])


def test_a_checkpoint_brings_its_task_and_text_and_a_difference_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trust A3."""
    trained = settings(
        "model=deltanet", "task.samples=2", "task.lengths=[1k]", "text.vocab_size=1000",
        "training.tokens=512", "training.batch_tokens=128", "training.warmup_steps=0",
    )  # fmt: skip
    run = tmp_path / "run"
    atlas_bench.runs.execute.execute(trained, run)
    words = [*QUICK, "mode=eval", f"checkpoint={run}"]
    same = read_command(words).settings
    assert (same.task, same.text) == (trained.task, trained.text)
    assert read_command([*words, "task.samples=3"]).settings.task.lengths == ["1k"]
    atlas_bench.runs.execute.execute(same, tmp_path / "same")
    records = [read_record(each / "record.json") for each in (run, tmp_path / "same")]
    assert [score.value for score in records[0].scores] == [
        score.value for score in records[1].scores
    ]
    assert "note" not in capsys.readouterr().out
    assert records[1].notes == records[0].notes
    needles = ["task=s_niah", "task.subtasks=[niah_single_1]", "task.lengths=[512]"]
    other = read_command([*words, *needles, "task.samples=1", "text.vocab_size=600"]).settings
    atlas_bench.runs.execute.execute(other, tmp_path / "other")
    note = "trained on task=babilong, evaluated on task=s_niah"
    assert f"note    {note}" in capsys.readouterr().out
    record = read_record(tmp_path / "other/record.json")
    assert note in record.notes
    assert record.protocol["trained_on"] == "task=babilong"
    assert record.config["text"]["vocab_size"] == 1000  # the checkpoint's tokenizer was used
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text("In the beginning was the word. " * 99)
    text = ["text=folder", f"text.folder={folder}"]
    assert not_as_trained(read_command([*words, *text]).settings, RunFolder(tmp_path)) == [
        "trained with text.source=embedded, evaluated with text.source=folder"
    ]


def test_mqar_is_trained_for_its_epochs_and_scored(tmp_path: Path) -> None:
    overrides = [*MQAR, *SIZES, "training.epochs=1.5", "training.validate_every=4"]
    atlas_bench.runs.execute.execute(settings(*overrides), tmp_path)
    record, metrics = read(tmp_path)
    assert record["train_tokens"] == 1.5 * 64 * 32
    assert [line["length_tokens"] for line in metrics] == [32] * 6
    assert [i for i, line in enumerate(metrics, 1) if "valid_accuracy" in line] == [4, 6]
    (validated,) = record["validation"]  # of the examples that training may be stopped by
    assert (validated["subtask"], validated["samples"]) == ("4 pairs", 256)
    assert validated["value"] == pytest.approx(metrics[-1]["valid_accuracy"], abs=1e-6)
    (score,) = record["scores"]
    assert (score["subtask"], score["length_name"], score["samples"]) == ("4 pairs", "32", 20)
    assert record["tokenizer"] == {"name": None, "fingerprint": None, "vocab_size": 64}
    assert record["scale"] == "zoology_64"
    assert record["state_bytes"] < 100_000
    again = atlas_bench.runs.execute.execute(
        settings(*MQAR, *SIZES, "mode=eval", f"checkpoint={tmp_path}"), tmp_path / "again"
    )
    assert json.loads(again.read_text())["scores"][0]["value"] == score["value"]


class StoppedAtStep2(Trainer):
    def _step(self) -> dict[str, float]:
        metrics = super()._step()
        if metrics["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics


def test_mqar_resumes_with_the_batches_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*MQAR, *SIZES, "training.epochs=2", "training.validate_every=3", "mode=train"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    atlas_bench.runs.execute.execute(settings(*overrides), whole)
    with monkeypatch.context() as patch:
        patch.setattr(atlas_bench.runs.learners.language_model, "Trainer", StoppedAtStep2)
        with pytest.raises(atlas_bench.runs.execute.Stopped):
            atlas_bench.runs.execute.execute(settings(*overrides), cut)
    atlas_bench.runs.execute.execute(settings(*overrides, "resume=true"), cut)
    keys = ("step", "loss", "valid_accuracy")
    losses = [[[line.get(key) for key in keys] for line in read(run)[1]] for run in (whole, cut)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


@pytest.mark.parametrize("subtask", ["compression", "fuzzy_recall"])
def test_mad_trains_on_its_case_with_its_readout(subtask: str, tmp_path: Path) -> None:
    overrides = ["+experiment=table4_mad/laptop", f"task.subtask={subtask}", "model=titans", *SIZES]
    small = ["training.epochs=1", "training.validate_every=2"]
    atlas_bench.runs.execute.execute(settings(*overrides, *small), tmp_path)
    record, metrics = read(tmp_path)
    assert [score["metric"] for score in record["scores"]] == ["macro_accuracy", "accuracy"]
    assert {score["subtask"] for score in record["scores"]} == {subtask}
    length = {"compression": 32, "fuzzy_recall": 128}[subtask]
    assert [line["length_tokens"] for line in metrics] == [length] * 4
    assert record["protocol"]["readout"] == ("last" if subtask == "compression" else "next")
    assert record["config"]["training"]["learning_rate"] == 2e-3
    if subtask == "compression":
        assert record["scores"][1]["samples"] == 20 * 32


def test_epochs_are_for_fixed_sets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.epochs=2\.0 is for tasks with a fixed"):
        atlas_bench.runs.execute.execute(settings("training.epochs=2", "model=deltanet"), tmp_path)
