"""Evaluator of labelled positions: the model's predictions there, judged by the task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from atlas_bench.artifacts.schema import Scores
from atlas_bench.evaluation.cells import as_score, score_cells
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.learner import Learner
from atlas_bench.evaluation.memory_use import Meter
from atlas_bench.evaluation.token_predictions import join
from atlas_bench.interrupts import Interrupted
from atlas_bench.tasks.task import Cell, LabelledTask, TokenPredictions


def evaluate(context: EvaluationContext, task: LabelledTask) -> Scores:
    """The scores of every cell, with what reading its sequences cost."""
    for cell in task.cells():
        next(iter(task.labelled_batches(cell)))  # an impossible length fails before the first cell
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
    examples = tokens = 0
    for batch in task.labelled_batches(cell):
        parts.append(context.learner.predict(batch, first_example=examples))
        examples += len(batch.inputs)
        tokens += batch.inputs.size
        meter.look()
        advance()
        if context.should_stop():
            raise Interrupted
    cost = meter.cost(tokens) | {"measured_tokens_mean": round(tokens / examples, 1)}
    return Scores([as_score(value, cost) for value in task.judge(cell, join(parts))])
