"""Sequences scored at their labelled positions: what was predicted there, and its loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from atlas_bench.artifacts.schema import Score
from atlas_bench.evaluation.streaming import PeakMemory, refuse_what_cannot_fit
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.packing import packed_forward
from atlas_bench.tasks.task import Batch, Cell, MetricValue, TokenPredictions

if TYPE_CHECKING:
    from atlas_bench.evaluation.context import Run


def score_labelled(run: Run, cell: Cell, on_batch: Callable[[], None]) -> list[Score]:
    """The cell's scores as the task judges them, with what reading the sequences cost."""
    memory = PeakMemory(run.device)
    started = time.perf_counter()
    parts: list[TokenPredictions] = []
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
    columns = ("example", "position", "target", "predicted", "loss")
    predictions = TokenPredictions(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in columns)
    )
    cost = {
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "peak_memory_bytes": memory.peak(),
        "measured_tokens_mean": round(tokens / examples, 1),
    }
    return [as_score(value, cost) for value in run.task.judge(cell, predictions)]


@torch.inference_mode()
def predict(run: Run, batch: Batch, *, first_example: int = 0) -> TokenPredictions:
    """The model's first choice and loss at the labelled positions, in pieces of the sequences."""
    inputs = torch.from_numpy(batch.inputs).to(run.device, torch.long)
    # A readout names a call's tokens from its last, so it must see all of them at once.
    prefill_chunk = (
        run.settings.hardware.prefill_chunk if run.model.readout is None else inputs.shape[1]
    )
    pieces = _read_in_pieces(run.model, inputs, prefill_chunk)
    if batch.starts is not None:
        pieces = [_read_packed(run, inputs, batch.starts)]
    parts, start = [], 0
    for hidden in pieces:
        length = hidden.shape[1]
        example, position = np.nonzero(batch.answer_mask[:, start : start + length])
        wanted = batch.targets[example, start + position].astype(np.int64)
        targets = torch.from_numpy(wanted).to(run.device)
        loss, predicted = run.model.token_losses(hidden[example, position], targets)
        found = predicted.cpu().numpy(), loss.cpu().numpy()
        parts.append((first_example + example, start + position, wanted, *found))
        start += length
    return TokenPredictions(*map(np.concatenate, zip(*parts, strict=True)))


def _read_in_pieces(model: LanguageModel, tokens: Tensor, prefill_chunk: int) -> Iterator[Tensor]:
    """Hidden states (B, at most ``prefill_chunk``, width) of tokens (B, T), in order."""
    state = model.init_state(len(tokens))
    for part in tokens.split(prefill_chunk, 1):
        hidden, state = model(part, state)
        yield hidden


def _read_packed(run: Run, tokens: Tensor, starts: np.ndarray) -> Tensor:
    """Hidden states (B, T, width) of rows of documents, each from a fresh state."""
    prefill_chunk = run.settings.hardware.prefill_chunk

    def forward(part: Tensor) -> tuple[Tensor, None]:
        return torch.cat(list(_read_in_pieces(run.model, part, prefill_chunk)), 1), None

    return packed_forward(run.model, tokens, starts, forward)


def accuracy(run: Run) -> float:
    """The share of labelled positions of all the task's cells that is predicted."""
    task = run.task
    batches = (batch for cell in task.cells() for batch in task.labelled_batches(cell))
    parts = [predict(run, batch) for batch in batches]
    return float(np.concatenate([part.is_right for part in parts]).mean())


def as_score(value: MetricValue, cost: dict[str, float]) -> Score:
    low = high = None
    if value.correct is not None:
        low, high = value.metric.bounds(value.correct, value.samples)
    return Score(
        subtask=value.cell.subtask,
        length_tokens=value.cell.tokens,
        length_name=value.cell.length,
        metric=value.metric.name,
        value=value.value,
        samples=value.samples,
        ci_low=low,
        ci_high=high,
        **cost,
    )
