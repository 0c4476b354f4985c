"""Trust C18, C17, A8: what a run cannot do, and what it cannot tell, is said before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.execute import execute
from atlas_bench.runs.learners import language_model
from atlas_bench.runs.prepare import prepare
from atlas_bench.tasks.mqar import MqarTask
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import Batch
from atlas_bench.text.tokenizer import train_tokenizer

SMALL = ["logger=none", "hardware.device=cpu", "model=transformer"]


def notes(folder: Path, *words: str) -> list[str]:
    settings = compose_settings([*SMALL, *words])
    folder.mkdir(parents=True, exist_ok=True)
    context, _ = prepare(settings, RunFolder(folder), lambda: False, None)
    return context.notes


def refused(folder: Path, *words: str) -> str:
    """The sentence of a run that ends before it owns its folder and before it trains."""
    settings = compose_settings([*SMALL, "training.tokens=512", *words])
    with pytest.raises(ConfigError) as error:
        execute(settings, folder)
    assert list(folder.glob("*")) == []
    return str(error.value)


def test_c18_a_length_that_is_too_small_for_a_subtask(tmp_path: Path) -> None:
    tokenizer = f"text.tokenizer={train_tokenizer(280).save(tmp_path)}"
    ruler = ["lengths=['512']", "subtasks=[niah_single_1,niah_multivalue]", "samples=1"]
    said = "512 tokens are too few for niah_multivalue"
    main = [f"task.{word}" for word in ruler]
    other = [f"evaluations.own.{word}" for word in ruler]
    run = tmp_path / "run"
    assert f"task.lengths: {said}" in refused(run, tokenizer, "task=ruler", *main)
    assert f"evaluations.own.lengths: {said}" in refused(
        run, tokenizer, "task.lengths=[0k]", "+task@evaluations.own=ruler", *other
    )


def test_c18_an_evaluation_that_needs_another_model(tmp_path: Path) -> None:
    assert refused(
        tmp_path / "run", "task=mqar", "task.train_examples=64", "task.test_examples=4",
        "+task@evaluations.own=babilong", "evaluations.own.lengths=[0k]",
    ) == (
        "evaluations.own: task=babilong needs a model with a vocabulary of 1024, and task=mqar "
        "gives it one of 8192"
    )  # fmt: skip


def test_c18_a_validation_that_cannot_be_drawn_and_a_late_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["task=mqar", "task.train_examples=64", "task.test_examples=4"]
    batch = MqarTask.batch

    def second_stage(self: MqarTask, stage: Stage, first: int, count: int) -> Batch:
        if stage.coarse:
            raise ValueError("the second stage is impossible")
        return batch(self, stage, first, count)

    monkeypatch.setattr(MqarTask, "batch", second_stage)
    stages = "training.curriculum.stages=[{coarse:false},{coarse:true}]"
    assert "second stage" in refused(tmp_path / "run", *words, stages)

    def no_examples(self: MqarTask, samples: int) -> MqarTask:
        raise ValueError("the validation is impossible")

    monkeypatch.setattr(MqarTask, "validation", no_examples)
    assert "validation is impossible" in refused(tmp_path / "run", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.lengths=[1000000000000]"], "task.lengths: 1000000000000 is longer than 100M"),
        (["training.learning_rate=nan"], "training.learning_rate=nan is not a finite number"),
        (["training.curriculum.threshold=inf"], "threshold=inf is not a finite number"),
        (["training.learning_rate=1e38"], "learning_rate=1e+38 must be above 0 and at most 1"),
        (["scale.width=1000000000"], "scale.width=1000000000 must be"),
        (["training.curriculum.stages=[{length:1000000000000}]"], "stages[0].length=1000000000000"),
    ],
)
def test_c17_numbers_without_sense(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_settings([*SMALL, *words])
    assert said in str(error.value)


def test_c17_a_model_that_cannot_fit_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(tmp_path / "run", "scale.layers=1000000000")
    assert "which need 7" in said
    assert "bytes, and " in said
    settings = compose_settings([*SMALL, "task.lengths=[0k]"])
    size = language_model.parameters_of(settings.model, settings.scale, vocab_size=1024)
    monkeypatch.setattr(language_model, "free_memory", lambda device: 16 * size)
    assert not notes(tmp_path, "task.lengths=[0k]")
    monkeypatch.setattr(language_model, "free_memory", lambda device: 16 * size - 1)
    assert f"has {size:,} parameters" in refused(tmp_path / "run", "task.lengths=[0k]")


def test_a8_training_that_ends_inside_the_warm_up_is_said(tmp_path: Path) -> None:
    short = ["task.lengths=[0k]", "training.warmup_steps=500"]
    (note,) = notes(tmp_path, *short, "training.tokens=60000")
    assert note.startswith("training ends inside the warm-up of the learning rate: ")
    assert "training.tokens=60000 are at most 118 steps" in note
    (tmp_path / "config.json").unlink()
    assert not notes(tmp_path, *short, "training.tokens=300000")
