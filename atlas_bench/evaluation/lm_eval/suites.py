"""Evaluator of suites: lm-eval's tasks, prompts and metrics, our learners, scores in our record."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.metrics import ACCURACY
from atlas_bench.artifacts.schema import Score, Scores
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.evaluation.cells import as_score, score_cells
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.memory_use import Meter
from atlas_bench.naming import one_line
from atlas_bench.tasks.suites.task import AVERAGE, AVERAGED, SUBTASKS, SuiteTask
from atlas_bench.tasks.task import Cell, MetricValue


def draw(task: SuiteTask) -> None:
    """Load the data that may be missing."""
    if task.settings.data != "fixtures":
        _load(task)


def evaluate(context: EvaluationContext, task: SuiteTask) -> Scores:
    """The scores of every subtask, and their average if no subtask of it is missing.

    Raises ConfigError for data that cannot be loaded and for a tokenizer that is not the model's.
    """
    if task.settings.data == "fixtures":
        context.notes.append(
            "fixtures: a few rows of our own in the form of each data set; these numbers are no "
            "benchmark results (task.data=hub has the real data)"
        )
    lm = context.learner.lm_eval_model(task)
    lm_eval_tasks = _load(task)
    task.versions |= {name: str(each.VERSION) for name, each in lm_eval_tasks.items()}
    subtasks = {task.cell(subtask): subtask for subtask in task.settings.subtasks}

    def score(cell: Cell, advance: Callable[[], None]) -> Scores:
        lm.on_text = advance
        subtask = subtasks[cell]
        results, cost = _evaluate(context, lm, lm_eval_tasks[subtask], task.settings.limit)
        predictions = list(_predictions(cell, results["samples"][subtask]))
        scores = list(_scores(task, cell, subtask, results, cost))
        return Scores(scores, predictions=predictions)

    scores = score_cells(context, list(subtasks), score)
    scores.scores += _average(task, scores.scores)
    return scores


# lm-eval -----------------------------------------------------------------------------------


def _load(task: SuiteTask) -> dict[str, Any]:
    """lm-eval's task objects by name, with their data."""
    from lm_eval.tasks import TaskManager

    settings = task.settings
    # Indexing only the folders that are used takes a second; all of lm-eval's take ten.
    package = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
    used = {SUBTASKS[subtask].folder for subtask in settings.subtasks}
    folders = [package / folder for folder in sorted(used - {None})]
    metadata = {"tokenizer": task.tokenizer, "context_tokens": settings.context_tokens}
    own = folder_of("tasks")
    manager = TaskManager(include_path=[own, *folders], include_defaults=False, metadata=metadata)
    loaded: dict[str, Any] = {}
    for subtask in settings.subtasks:
        # `datasets` takes a folder of a hub id's name in the working directory for the hub's.
        place = own / "fixtures" if settings.data == "fixtures" else Path()
        try:
            with contextlib.chdir(place), _quiet():
                loaded |= manager.load([subtask])["tasks"]
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"task.data={settings.data}: the data of {subtask} cannot be loaded "
                f"({one_line(error)}); task.data=fixtures needs no network"
            ) from error
    for lm_eval_task in loaded.values():
        lm_eval_task.set_config("num_fewshot", 0)
        lm_eval_task.set_fewshot_seed(settings.seed)
    return loaded


def _evaluate(
    context: EvaluationContext, lm: Any, lm_eval_task: Any, limit: int | None
) -> tuple[dict[str, Any], dict[str, float]]:
    """lm-eval's results for one of its tasks, and what reading cost."""
    from lm_eval.evaluator import evaluate

    tasks = {"tasks": {lm_eval_task.task_name: lm_eval_task}}
    meter, before = Meter(context.device), lm.tokens_read
    with _quiet():  # the record's intervals are ours
        results = evaluate(lm, tasks, limit=limit, bootstrap_iters=0)
    return results, meter.cost(lm.tokens_read - before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the hints and progress bars of lm-eval and `datasets`, which go to stderr."""
    import datasets

    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        datasets.enable_progress_bars()
        log.setLevel(level)


# record ------------------------------------------------------------------------------------


def _scores(
    task: SuiteTask, cell: Cell, subtask: str, results: dict[str, Any], cost: dict[str, float]
) -> Iterator[Score]:
    metrics = {metric.name: metric for metric in task.metrics}
    samples = results["n-samples"][subtask]["effective"]
    for lm_eval_name, name in SUBTASKS[subtask].metrics.items():
        value = float(results["results"][subtask][f"{lm_eval_name},none"])
        correct = round(value * samples)
        yield as_score(MetricValue(cell, metrics[name], value, samples, correct), cost)


def _average(task: SuiteTask, scores: list[Score]) -> list[Score]:
    """The plain mean of the eight accuracies, as in the papers."""
    accuracies = {score.subtask: score for score in scores if score.metric == ACCURACY.name}
    averaged = [accuracies.get(task.cell(subtask).subtask) for subtask in AVERAGED]
    if None in averaged:
        return []
    mean = sum(score.value for score in averaged) / len(averaged)
    samples = sum(score.samples for score in averaged)
    return [as_score(MetricValue(task.cell(AVERAGE), ACCURACY, mean, samples), {})]


def _predictions(cell: Cell, samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The requests of each document, the model's responses and their metrics."""
    for sample in samples:
        yield {
            "subtask": cell.subtask,
            "document": sample["doc_id"],
            "arguments": sample["arguments"],
            "target": sample["target"],
            "responses": sample["filtered_resps"],
            **{metric: sample[metric] for metric in sample["metrics"]},
        }
