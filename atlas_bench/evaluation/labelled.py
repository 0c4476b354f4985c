"""Evaluator of labelled positions: the model's predictions there, judged by the task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from atlas_bench.artifacts.schema import Scores
from atlas_bench.evaluation.cells import as_score, score_cells
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.learner import Learner
from atlas_bench.evaluation.memory_use import Meter, Used, total_cost
from atlas_bench.evaluation.token_predictions import as_base64, from_base64, join
from atlas_bench.tasks.task import Batch, Cell, LabelledTask, TokenPredictions


def draw(task: LabelledTask) -> None:
    """One batch of each cell."""
    for cell in task.cells():
        next(iter(task.labelled_batches(cell)))


def evaluate(context: EvaluationContext, task: LabelledTask) -> Scores:
    """The scores of every cell, with what reading its sequences cost."""
    return score_cells(context, task.cells(), partial(_score_cell, context, task))


def accuracy(learner: Learner, task: LabelledTask) -> float:
    """The share of labelled positions in all cells of the task that is predicted correctly."""
    batches = (batch for cell in task.cells() for batch in task.labelled_batches(cell))
    right = [learner.predict(batch).is_right for batch in batches]
    return float(np.concatenate(right).mean())


def _score_cell(
    context: EvaluationContext, task: LabelledTask, cell: Cell, advance: Callable[[], None]
) -> Scores:
    meter = Meter(context.device)
    parts: list[TokenPredictions] = []
    used: list[Used] = []
    examples = tokens = 0
    for number, batch in enumerate(task.labelled_batches(cell)):

        def work(batch: Batch = batch, first: int = examples) -> dict[str, Any]:
            predictions = context.learner.predict(batch, first_example=first)
            return {"predictions": as_base64(predictions), "used": meter.used()}

        piece = context.once(f"{cell.subtask} {cell.length} batch {number}", work)
        parts.append(from_base64(piece["predictions"]))
        used.append(piece["used"])
        examples += len(batch.inputs)
        tokens += batch.inputs.size
        meter.restart()
        advance()
    cost = total_cost(tokens, used) | {"measured_tokens_mean": round(tokens / examples, 1)}
    return Scores([as_score(value, cost) for value in task.judge(cell, join(parts))])
