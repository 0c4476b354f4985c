"""Sequences scored at their labelled positions: what was predicted there, and its loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from atlas_bench.evaluation.streaming import PeakMemory, refuse_what_cannot_fit
from atlas_bench.interrupts import Interrupted
from atlas_bench.report.records import Score, wilson_interval
from atlas_bench.tasks.task import Batch, Cell, Labelled, Measured

if TYPE_CHECKING:
    from atlas_bench.run import Run


def score_labelled(run: Run, cell: Cell, on_batch: Callable[[], None]) -> list[Score]:
    """The cell's scores as the task judges them, with what reading the sequences cost."""
    memory = PeakMemory(run.device)
    started = time.perf_counter()
    parts: list[Labelled] = []
    examples = tokens = 0
    for batch in run.task.labelled_batches(cell):
        refuse_what_cannot_fit(run.model, *batch.inputs.shape)
        parts.append(predict(run, batch, first_example=examples))
        examples += len(batch.inputs)
        tokens += batch.inputs.size
        memory.look()
        on_batch()
        if run.stop():
            raise Interrupted
    seconds = time.perf_counter() - started
    columns = ("example", "position", "wanted", "predicted", "loss")
    found = Labelled(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
    cost = {
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "peak_memory_bytes": memory.peak(),
        "measured_tokens_mean": round(tokens / examples, 1),
    }
    return [_score(measured, cost) for measured in run.task.judge(cell, found)]


@torch.inference_mode()
def predict(run: Run, batch: Batch, *, first_example: int = 0) -> Labelled:
    """The model's first choice and loss at the labelled positions, in pieces of the sequences."""
    inputs = torch.from_numpy(batch.inputs)
    piece = run.settings.hardware.piece_tokens
    if run.model.readout is not None:  # which names a call's tokens from its last
        piece = inputs.shape[1]
    state = run.model.init_state(len(inputs))
    examples, positions, wanted, predicted, losses = [], [], [], [], []
    for start in range(0, inputs.shape[1], piece):
        part = inputs[:, start : start + piece].to(run.device, torch.long)
        hidden, state = run.model(part, state)
        example, position = np.nonzero(batch.answer_mask[:, start : start + piece])
        if not len(example):
            continue
        target = batch.targets[example, start + position].astype(np.int64)
        logits = run.model.logits(hidden[example, position]).float()
        loss = F.cross_entropy(logits, torch.from_numpy(target).to(run.device), reduction="none")
        examples.append(first_example + example)
        positions.append(start + position)
        wanted.append(target)
        predicted.append(logits.argmax(-1).cpu().numpy())
        losses.append(loss.cpu().numpy())
    return Labelled(*map(np.concatenate, (examples, positions, wanted, predicted, losses)))


def accuracy(run: Run) -> float:
    """The share of labelled positions of the task's validation examples that is predicted."""
    parts = [predict(run, batch) for batch in run.task.validation_batches()]
    return float(np.concatenate([part.predicted == part.wanted for part in parts]).mean())


def _score(measured: Measured, cost: dict[str, float]) -> Score:
    low = high = None
    if measured.correct is not None:
        low, high = wilson_interval(measured.correct, measured.samples)
    return Score(
        subtask=measured.cell.subtask,
        length_tokens=measured.cell.tokens,
        length_name=measured.cell.length,
        metric=measured.metric,
        value=measured.value,
        samples=measured.samples,
        ci_low=low,
        ci_high=high,
        **cost,
    )
