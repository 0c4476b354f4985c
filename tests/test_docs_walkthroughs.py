"""The pages about adding a model and a task, followed to the letter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from walkthroughs import files_of, followed  # noqa: F401

import atlas_bench.runs.execute
import atlas_bench.runs.show
from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import count_parameters
from atlas_bench.tasks.stages import LengthStage

SMALL = [
    "logger=none", "hardware.device=cpu", "hardware.threads=1", "training.tokens=256",
    "training.batch_tokens=64", "training.min_sequences=1",
    "training.curriculum.stages=[{length:64}]",
]  # fmt: skip


def test_the_pages_name_what_they_write() -> None:
    assert [name for name, _ in files_of("adding_a_model.md")] == ["conf/model/titans_norm.yaml"]
    assert [name for name, _ in files_of("adding_a_task.md")] == [
        "atlas_bench/tasks/parity.py",
        "atlas_bench/tasks/registry.py",
        "atlas_bench/tasks/registry.py",
    ]


def test_the_added_model_is_one_function_and_trains(
    followed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = compose_settings(["model=titans_norm", *SMALL, "mode=train"])
    assert settings.model.memory.spec().branch_norm
    model = build_model(settings.model, settings.scale, vocab_size=1024, seed=0).double().eval()
    transformer = compose_settings(["model=transformer"])
    other = build_model(transformer.model, transformer.scale, vocab_size=1024, seed=0)
    assert count_parameters(model) == pytest.approx(count_parameters(other), rel=0.01)
    tokens = torch.randint(0, 1024, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, _ = model(tokens)
        first, state = model(tokens[:, :23])
        rest, _ = model(tokens[:, 23:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=1e-7, atol=1e-8)
    monkeypatch.setattr(atlas_bench.runs.show, "draw_plots", lambda *arguments, **options: {})
    record = json.loads(atlas_bench.runs.execute.execute(settings, tmp_path).read_text())
    assert (record["model"], record["train_tokens"]) == ("titans_norm", 256)


def test_the_added_task_is_right_and_runs(
    followed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atlas_bench.runs.show, "draw_plots", lambda *arguments, **options: {})
    words = ["task=parity", "model=deltanet", "task.lengths=[16,40]", "task.samples=40", *SMALL]
    settings = compose_settings([*words, "validation_samples=3"])
    parity = sys.modules["atlas_bench.tasks.parity"]
    task = parity.ParityTask(settings.task, settings.text, seed=0, question_every=10)
    batch = task.batch(LengthStage(length=16), 3, 4)
    odd = [[sum(row[: place + 1]) % 2 for place in range(16)] for row in batch.inputs.tolist()]
    assert batch.targets.tolist() == odd
    assert batch.answer_mask.all()
    np.testing.assert_array_equal(
        task.batch(LengthStage(length=16), 5, 1).inputs[0], batch.inputs[2]
    )
    record = json.loads(atlas_bench.runs.execute.execute(settings, tmp_path).read_text())
    scores = [(each["length_tokens"], each["metric"], each["samples"]) for each in record["scores"]]
    assert scores == [(16, "last_bit", 40), (40, "last_bit", 40)]
    assert [each["samples"] for each in record["validation"]] == [3, 3]
    with pytest.raises(ConfigError, match=r"task\.samples=0 must be at least 1"):
        compose_settings(["task=parity", "task.samples=0"])
