"""The loop on a toy task: it learns, stops, resumes to the bit and names what is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings
from atlas_bench.tasks.stages import NoiseStage
from atlas_bench.tasks.task import Batch
from atlas_bench.training.callbacks import Callback, Training
from atlas_bench.training.errors import TrainingError, not_finite
from atlas_bench.training.loop import Trainer
from atlas_bench.training.optimization import build_optimizer, clip_gradients, learning_rate
from atlas_bench.training.progress import Progress
from atlas_bench.training.settings import (
    CurriculumSettings,
    TrainingSettings,
    check_training,
)

SETTINGS = TrainingSettings(
    tokens=3072, batch_tokens=256, checkpoint_every=4, warmup_steps=2, learning_rate=2e-3,
    min_sequences=1,
    curriculum=CurriculumSettings(
        stages=[
            NoiseStage(coarse=True),
            NoiseStage(noise=0.5),
            NoiseStage(length=128, noise=0.5),
        ],
        threshold=0.0,
        patience=3,
    ),
)  # fmt: skip


def copy_batch(stage: NoiseStage, first: int, count: int) -> Batch:
    """Every second token repeats the one before it; those are the answers."""
    length = stage.length
    tokens = np.empty((count, length + 1), dtype=np.int32)
    for row in range(count):
        drawn = np.random.default_rng(first + row).integers(0, 16, length // 2 + 1)
        tokens[row] = np.repeat(drawn, 2)[: length + 1]
    answers = np.zeros((count, length), dtype=bool)
    answers[:, ::2] = True
    return Batch(tokens[:, :-1], tokens[:, 1:], answers)


def model(seed: int = 0) -> LanguageModel:
    memory = MemorySettings(
        network="matrix", optimizer="momentum", chunk=8, bounded_step=True, gate="hard_sigmoid"
    )
    scale = ScaleSettings(width=16, layers=2, heads=2)
    settings = ModelSettings(memory=memory, coarse_factor=4)
    return build_model(settings, scale, vocab_size=32, seed=seed)


def trainer(folder: Path, **options) -> Trainer:
    return Trainer(
        model(), copy_batch, options.pop("settings", SETTINGS), folder=folder,
        tokenizer=None, device=torch.device("cpu"), **options,
    )  # fmt: skip


def test_learns_and_walks_through_the_curriculum(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    progress = run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == progress.step == 12
    assert lines[-1]["answer_loss"] < lines[0]["answer_loss"]
    stages = [(line["length_tokens"], line["noise_share"]) for line in lines]
    assert list(dict.fromkeys(stages)) == [(64, 0.0), (64, 0.5), (128, 0.5)]
    assert progress.tokens >= SETTINGS.tokens
    first_of_later = [next(at for at, each in enumerate(stages) if each == stage)
                      for stage in list(dict.fromkeys(stages))[1:]]  # fmt: skip
    assert [(end.stage, end.tokens) for end in progress.ends[:2]] == [
        (stage, lines[at - 1]["tokens"]) for stage, at in enumerate(first_of_later)
    ]


def test_a_stage_ends_when_it_had_its_share(tmp_path: Path) -> None:
    first, *others = SETTINGS.curriculum.stages
    stages = [replace(first, longest=0.25), *others]  # its own share goes before the curriculum's
    curriculum = replace(SETTINGS.curriculum, stages=stages, threshold=1.1, longest=0.5)
    run = trainer(tmp_path, settings=replace(SETTINGS, curriculum=curriculum))
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    stages = [(line["length_tokens"], line["noise_share"]) for line in lines]
    assert [stages.count(stage) for stage in dict.fromkeys(stages)] == [3, 6, 3]
    assert not run.progress.passed
    assert [(end.stage, end.passed) for end in run.progress.ends] == [(0, False), (1, False)]
    penalties = [line["loss"] - line["answer_loss"] for line in lines]
    assert min(penalties[:3]) > 0.3
    assert max(penalties[3:]) < 0.2, "a model that did not pass the stage before is not penalised"


def test_a_stage_can_take_gradients_at_coarser_chunks(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    chunks, step = [], run._step

    def watched() -> dict[str, float]:
        metrics = step()
        chunks.append([block.mixer.spec.chunk for block in run.model.blocks])
        return metrics

    run._step = watched
    run.run()
    assert chunks[0] == [32, 32]
    assert chunks[3] == chunks[-1] == [8, 8]

    coarse = trainer(tmp_path)
    coarse.stages = [NoiseStage(coarse=True)]
    coarse.run()
    assert [block.mixer.spec.chunk for block in coarse.model.blocks] == [8, 8]


def test_resume_repeats_the_uninterrupted_run_to_the_bit(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    expected = trainer(whole)
    expected.run()
    steps = iter(range(100))
    stopped = trainer(cut, should_stop=lambda: next(steps) == 5)
    with pytest.raises(Interrupted):
        stopped.run()
    # A kill later than the checkpoint leaves metrics that the resumed run must not repeat.
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": 0}\n{"step": 8, "lo')
    resumed = trainer(cut)
    resumed.resume(next((cut / "checkpoints").glob("step-*6")))
    resumed.run()
    assert resumed.progress.last_loss == expected.progress.last_loss
    pairs = zip(expected.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)

    def losses(folder: Path) -> list[tuple[int, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [(json.loads(line)["step"], json.loads(line)["loss"]) for line in lines]

    assert losses(cut) == losses(whole)


def test_checkpoints_by_time_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the numbers nor which checkpoint is the best."""
    settings = replace(SETTINGS, checkpoint_every=3, checkpoint_minutes=None)
    found, saved, save = [], [], checkpoint.save_checkpoint

    def remember(*arguments: Any, **options: Any) -> Path:
        saved.append(arguments[3]["step"])
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_checkpoint", remember)
    for name, minutes in (("steps", None), ("time", 1e-9)):
        saved.clear()
        folder = tmp_path / name
        folder.mkdir()
        run = trainer(folder, settings=replace(settings, checkpoint_minutes=minutes))
        run.run()
        best = (folder / "checkpoints/best.json").read_text()
        progress = replace(run.progress, seconds=0.0)
        found.append((best, progress, [each.tolist() for each in run.model.parameters()]))
        steps = range(1, run.progress.step + 1)
        assert saved == [s for s in steps if minutes or s % 3 == 0 or s == run.progress.step]
    assert found[0] == found[1]


def test_accumulation_gives_the_same_gradient(tmp_path: Path) -> None:
    losses = []
    for accumulate in (1, 2):
        folder = tmp_path / str(accumulate)
        folder.mkdir()
        settings = TrainingSettings(**{**vars(SETTINGS), "accumulate": accumulate, "tokens": 256})
        run = trainer(folder, settings=settings)
        run.model.double()
        losses.append(run._step())
    for name in ("gradient_norm", "loss"):  # losses are float32, whatever the model is
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-6)


def test_documents_in_a_row_are_independent(tmp_path: Path) -> None:
    curriculum = CurriculumSettings(stages=[NoiseStage()])
    settings = replace(
        SETTINGS, curriculum=curriculum, change_penalty=0.5, language_modelling_weight=0.0
    )
    run = trainer(tmp_path, settings=settings)
    run.model.double().train()
    batch = copy_batch(NoiseStage(), 0, 2)
    starts = np.zeros((2, 64), dtype=bool)
    starts[0, [0, 20]] = starts[1, 33] = True
    loss, parts = run._loss(replace(batch, starts=starts))
    losses, changes = [], []
    for row, begin, end in ((0, 0, 20), (0, 20, 64), (1, 0, 33), (1, 33, 64)):
        part = slice(begin, end)
        inputs, targets, answers = (
            torch.from_numpy(x[row, part]) for x in (batch.inputs, batch.targets, batch.answer_mask)
        )
        hidden, _ = run.model(inputs[None].long())
        losses.append(run.model.token_losses(hidden[0][answers], targets[answers].long())[0])
        changes += [run.model.auxiliary_losses()["memory_change"]] * (end - begin)
    answer_loss, change = torch.cat(losses).mean(), torch.stack(changes).mean()
    assert parts["answer_loss"].item() == pytest.approx(answer_loss.item())
    assert parts["memory_change"].item() == pytest.approx(change.item())
    assert loss.item() == pytest.approx((answer_loss + 0.5 * change).item())
    assert "gate_rate" in parts
    assert "memory_norm" not in parts, "each document leaves its own memory"
    plain, parts = run._loss(batch)
    assert "memory_norm" in parts
    assert plain.item() != pytest.approx(loss.item(), rel=1e-6)


def test_a_stage_scales_the_penalty_on_changes(tmp_path: Path) -> None:
    penalties = {}
    for scale in (0.0, 2.0):
        settings = TrainingSettings(
            **{
                **vars(SETTINGS),
                "change_penalty": 0.5,
                "language_modelling_weight": 0.0,
                "curriculum": CurriculumSettings(stages=[NoiseStage(penalty_scale=scale)]),
            }
        )
        metrics = trainer(tmp_path, settings=settings)._step()
        penalties[scale] = metrics["loss"] - metrics["answer_loss"]
        assert metrics["memory_change"] > 0
    assert penalties[0.0] == pytest.approx(0.0, abs=1e-6)
    assert penalties[2.0] == pytest.approx(2.0 * 0.5 * metrics["memory_change"], rel=1e-4)


@pytest.mark.parametrize("broken", ["embedding.weight", "blocks.1.mixer.projections.weight"])
def test_the_error_names_what_is_not_finite_and_the_last_good_checkpoint(
    tmp_path: Path, broken: str
) -> None:
    run = trainer(tmp_path)
    run.save()
    with torch.no_grad():
        dict(run.model.named_parameters())[broken].fill_(torch.nan)
    with pytest.raises(TrainingError) as caught:
        run.run()
    assert f"step 1: the loss is not finite in {broken}" in str(caught.value)
    assert "step-00000000" in str(caught.value)
    assert str(caught.value).endswith("start a new run with shorter training.curriculum.stages")


def test_a_later_step_that_is_not_finite_advises_a_lower_rate(tmp_path: Path) -> None:
    tokens = torch.zeros(1, 4, dtype=torch.long)
    error = not_finite("loss", model(), tokens, step=2, folder=RunFolder(tmp_path))
    assert str(error).endswith(
        "; a resumed run keeps its settings, so start a new run with a lower training.learning_rate"
    ), "its step is bounded"


def test_gradients_whose_squares_overflow_are_clipped() -> None:
    """Trust A7: the sum of finite norms was infinite, and the logits were blamed."""
    network = torch.nn.Linear(4, 4, bias=False)
    network.weight.grad = torch.full((4, 4), 3e30)
    assert clip_gradients(network, 1.0) == pytest.approx(1.2e31)
    torch.testing.assert_close(network.weight.grad, torch.full((4, 4), 0.25))
    network.weight.grad[0, 0] = torch.nan
    assert not math.isfinite(clip_gradients(network, 1.0))


def test_a_layer_whose_output_explodes_is_named(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    with torch.no_grad():
        run.model.blocks[1].feed_forward.down.weight.fill_(3.4e38)
    with pytest.raises(
        TrainingError, match=r"not finite in the output of blocks\.1; no checkpoint"
    ):
        run.run()


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        (ModelSettings(mixers=["attention"]), False),
        (ModelSettings(memory=MemorySettings(optimizer="muon")), False),
        (ModelSettings(memory=MemorySettings(bounded_step=True)), False),
        (ModelSettings(mixers=["attention", "memory_as_gate"]), True),
    ],
)
def test_only_a_model_with_an_unlimited_memory_is_advised_to_limit_it(
    tmp_path: Path, settings: ModelSettings, advised: bool
) -> None:
    scale = ScaleSettings(width=16, layers=2, heads=2)
    network = build_model(settings, scale, vocab_size=32, seed=0)
    tokens = torch.zeros(1, 4, dtype=torch.long)
    error = not_finite("loss", network, tokens, step=1, folder=RunFolder(tmp_path))
    assert ("model.memory.bounded_step=true" in str(error)) is advised


def test_schedule_and_weight_decay_groups() -> None:
    settings = TrainingSettings(learning_rate=1.0, warmup_steps=10, final_rate=0.1)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(settings, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(settings, 100, 1.0) == pytest.approx(0.1)
    decayed, free = build_optimizer(model(), settings).param_groups
    shapes = {tuple(parameter.shape) for parameter in free["params"]}
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert (2, 8, 8) in shapes  # W1 of the initial memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "training.tokens=0"),
        ({"learning_rate": 0.0}, "training.learning_rate=0.0 must be above 0"),
        ({"betas": [0.9]}, "two numbers"),
        ({"epochs": 0.0}, "training.epochs=0.0 must be above 0, or null"),
        ({"stop_at": 0.9}, "training.stop_at needs training.validate_every"),
        ({"curriculum": CurriculumSettings(longest=0.0)}, "training.curriculum.longest"),
    ],
)
def test_impossible_settings_name_the_key(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_training(TrainingSettings(**change))


def validation(accuracies: list[float]) -> tuple[list[float], Callable[[], float]]:
    """The results so far, and a validation that returns ``accuracies``, one per call."""
    results: list[float] = []

    def validate() -> float:
        results.append(accuracies[len(results)])
        return results[-1]

    return results, validate


def test_training_ends_when_validation_reaches_stop_at(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validate_every=2, stop_at=0.9)
    results, validate = validation([0.1, 0.95, 1.0])
    run = trainer(tmp_path, settings=settings, validate=validate)
    progress = run.run()
    assert (progress.step, progress.valid_accuracy, progress.ended) == (4, 0.95, True)
    assert progress.tokens < settings.tokens
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("valid_accuracy") for line in lines] == [None, 0.1, None, 0.95]
    resumed = trainer(tmp_path, settings=settings, validate=validate)
    resumed.resume(checkpoint.find_checkpoint(tmp_path))
    assert resumed.run().step == 4, "a finished training stays finished"


def test_the_final_model_is_validated_too(tmp_path: Path) -> None:
    settings = replace(SETTINGS, validate_every=5)
    results, validate = validation([0.1, 1.0, 0.3])
    progress = trainer(tmp_path, settings=settings, validate=validate).run()
    assert (progress.step, progress.valid_accuracy, progress.ended) == (12, 0.3, False)
    assert len(results) == 3


def test_validation_changes_nothing(tmp_path: Path) -> None:
    losses = []
    for name, every in (("with", 2), ("without", None)):
        folder = tmp_path / name
        folder.mkdir()
        modes: list[bool] = []
        runs: list[Trainer] = []
        run = trainer(
            folder,
            settings=replace(SETTINGS, validate_every=every),
            validate=lambda modes=modes, runs=runs: modes.append(runs[0].model.training) or 0.5,
        )
        runs.append(run)
        losses.append(run.run().last_loss)
        assert modes == ([False] * 6 if every else [])
    assert losses[0] == losses[1]


class Watcher(Callback):
    """Notes which hooks are called, and what of a step is already done then."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, training: Training) -> None:
        self.calls.append("start")

    def on_step(self, training: Training, metrics: dict[str, float]) -> None:
        lines = training.folder.metrics.read_text().splitlines()
        assert json.loads(lines[-1]) == metrics, "the metrics are on disk"
        newest = training.folder.checkpoints / f"step-{metrics['step']:08d}"
        assert not newest.exists(), "a checkpoint says that all before it is done"
        self.calls.append(f"step {metrics['step']}")

    def on_end(self, training: Training) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("close")


def test_a_callback_sees_every_step_between_its_metrics_and_its_checkpoint(tmp_path: Path) -> None:
    watcher = Watcher()
    trainer(tmp_path, callbacks=[watcher]).run()
    assert watcher.calls == ["start", *(f"step {n}" for n in range(1, 13)), "end", "close"]


def test_a_callback_is_closed_when_training_stops(tmp_path: Path) -> None:
    watcher = Watcher()
    with pytest.raises(Interrupted):
        trainer(tmp_path, callbacks=[watcher], should_stop=lambda: True).run()
    assert watcher.calls == ["start", "step 1", "close"]


def test_the_metrics_of_steps_that_no_checkpoint_knows_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0}\n{"step": 2, "lo')
    trainer(tmp_path).run()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))


def test_a_checkpoint_with_the_former_key_of_sequences_is_resumed(tmp_path: Path) -> None:
    trainer(tmp_path).save()
    folder = checkpoint.find_checkpoint(tmp_path)
    (folder / "sha256.json").unlink()  # version 0.1 wrote none
    path = folder / "progress.json"
    path.write_text(path.read_text().replace('"sequences": 0', '"streams": 7'))
    resumed = trainer(tmp_path)
    resumed.resume(folder)
    assert resumed.progress == Progress(
        sequences=7, best_stage=0, ends=[], last_loss=resumed.progress.last_loss
    )
