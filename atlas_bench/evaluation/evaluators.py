"""The registry of evaluators, one for each kind of task, and what all evaluations share.

An evaluator is a function ``evaluate(context, task) -> Scores`` in a file of its own. To add a kind
of task, write that file and add a line to EVALUATORS. The file may also have ``draw(task)``, which
draws one sample of each cell.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module

from atlas_bench.artifacts.schema import Score, Scores
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.pieces import Pieces, stopping, weights_hash
from atlas_bench.tasks.task import Task
from atlas_bench.tracking import NoTracker

EVALUATORS = {
    "questions": "atlas_bench.evaluation.questions:evaluate",
    "labelled": "atlas_bench.evaluation.labelled:evaluate",
    "suite": "atlas_bench.evaluation.lm_eval.suites:evaluate",
    "online": "atlas_bench.evaluation.online:evaluate",
}


def evaluate(context: EvaluationContext, task: Task) -> Scores:
    """The scores of every cell of ``task``.

    Raises ConfigError in one sentence for what the task or the learner cannot do, Interrupted
    after a signal.
    """
    context.folder.predictions.unlink(missing_ok=True)  # a stopped evaluation may have left some
    module = context.learner.module
    identity = {**context.identity, "weights": weights_hash(module)}
    pieces = Pieces(context.folder, identity, context.console)
    context = replace(context, once=pieces.once)
    try:
        with stopping(module, context.should_stop):
            return pkgutil.resolve_name(EVALUATORS[task.kind])(context, task)
    except ConfigError:
        raise
    except ValueError as error:  # what a task cannot make
        raise ConfigError(str(error)) from error


def draw(task: Task) -> None:
    """Draw one sample of each cell, before anything is trained or evaluated.

    Raises ValueError in one sentence for what the task cannot make.
    """
    module = import_module(EVALUATORS[task.kind].partition(":")[0])
    if hasattr(module, "draw"):
        module.draw(task)


def validate(context: EvaluationContext, task: Task, samples: int) -> list[Score]:
    """The scores on ``samples`` other samples of each cell; empty if the task has none."""
    other = validation_task(task, samples)
    if other is None:
        return []
    folder = context.folder.validation
    folder.path.mkdir(exist_ok=True)
    # The record has these scores, so the tracker does not need what an online task learns here.
    return evaluate(replace(context, folder=folder, tracker=NoTracker()), other).scores


def validation_task(task: Task, samples: int) -> Task | None:
    """The task on other samples, to stop training and to choose settings by.

    None if the task has none. Raises ConfigError for what the task cannot make.
    """
    try:
        return task.validation(samples)
    except ValueError as error:
        raise ConfigError(str(error)) from error
