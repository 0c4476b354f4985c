"""Suites through lm-eval: its tasks, prompts and metrics, our models, scores in our record."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_bench.artifacts.folder import append_lines
from atlas_bench.artifacts.metrics import wilson_interval
from atlas_bench.artifacts.schema import Score
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.loading import Loaded, run_tokenizer
from atlas_bench.evaluation.streaming import PeakMemory
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.naming import one_line
from atlas_bench.tasks.suites.task import AVERAGE, AVERAGED, SUBTASKS, SuiteTask
from atlas_bench.tasks.task import Cell

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from atlas_bench.evaluation.context import Run


def score_suite(run: Run, notes: list[str]) -> list[Score]:
    """Every subtask's scores, and the average where all that it averages are there.

    Raises ConfigError for data that cannot be had and for a tokenizer that is not the model's.
    """
    task, settings = run.task, run.task.settings
    if settings.data == "fixtures":
        notes.append(
            "fixtures: a few rows of our own in the form of each data set; these numbers are no "
            "benchmark results (task.data=hub has the real data)"
        )
    lm = _model(run)
    loaded = _load(task)
    scores: list[Score] = []
    with progress_bars(run.console) as bars:
        for subtask in settings.subtasks:
            bar = bars.add_task(task.cell(subtask).subtask, total=None, note="")
            lm.on_text = partial(_advance, run, partial(bars.advance, bar))
            found, cost = _evaluate(run, lm, loaded[subtask])
            answers = _predictions(task.cell(subtask), found["samples"][subtask])
            append_lines(run.folder.predictions, answers)
            task.versions[subtask] = str(found["versions"][subtask])
            scores += _scores(task.cell(subtask), subtask, found, cost)
            if run.stop():
                raise Interrupted
    return scores + _average(task, scores)


def _advance(run: Run, advance: Callable[[], None]) -> None:
    advance()
    if run.stop():
        raise Interrupted


def _model(run: Run) -> LM:
    if not isinstance(run.model, LanguageModel):
        return run.model.lm
    from atlas_bench.evaluation.lm_eval.model import AtlasBenchLM

    if run.settings.checkpoint is not None:
        theirs = run_tokenizer(run.settings.checkpoint)
        if theirs.fingerprint != run.task.tokenizer.fingerprint:
            raise ConfigError(
                f"text.tokenizer={run.settings.text.tokenizer} is not what the checkpoint was "
                f"trained with ({theirs.name} of {theirs.vocab_size} tokens)"
            )
    hardware = run.settings.hardware
    return AtlasBenchLM(
        Loaded(run.model, run.task.tokenizer, run.folder.path),
        batch_tokens=hardware.batch_tokens,
        prefill_chunk=hardware.prefill_chunk,
        max_length=run.task.settings.max_length,
        device=run.device.type,
    )


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
    found: dict[str, Any] = {}
    for subtask in settings.subtasks:
        # `datasets` takes a folder of a hub id's name in the working directory for the hub's.
        place = own / "fixtures" if settings.data == "fixtures" else Path()
        try:
            with contextlib.chdir(place), _quiet():
                found |= manager.load([subtask])["tasks"]
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"task.data={settings.data}: the data of {subtask} cannot be loaded "
                f"({one_line(error)}); task.data=fixtures needs no network"
            ) from error
    for each in found.values():
        each.set_config("num_fewshot", 0)
        each.set_fewshot_seed(settings.seed)
    return found


def _evaluate(run: Run, lm: LM, lm_eval_task: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What lm-eval found for one of its tasks, and what reading cost."""
    from lm_eval.evaluator import evaluate

    memory, read, started = PeakMemory(run.device), lm.tokens_read, time.perf_counter()
    with _quiet():
        found = evaluate(
            lm,
            {"tasks": {lm_eval_task.task_name: lm_eval_task}},
            limit=run.task.settings.limit,
            bootstrap_iters=0,  # intervals are ours
        )
    seconds = time.perf_counter() - started
    cost = {
        "tokens_per_second": round((lm.tokens_read - read) / max(seconds, 1e-9), 1),
        "peak_memory_bytes": memory.peak(),
    }
    return found, cost


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the hints and bars of lm-eval and `datasets`; their bars only go to stderr."""
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


def _scores(cell: Cell, subtask: str, found: dict[str, Any], cost: dict[str, Any]) -> list[Score]:
    samples = found["n-samples"][subtask]["effective"]
    scores = []
    for theirs, ours in SUBTASKS[subtask].metrics.items():
        value = float(found["results"][subtask][f"{theirs},none"])
        low = high = None
        if ours == "accuracy":
            low, high = wilson_interval(round(value * samples), samples)
        scores.append(
            Score(cell.subtask, cell.tokens, cell.length, ours, value, samples, low, high, **cost)
        )
    return scores


def _average(task: SuiteTask, scores: list[Score]) -> list[Score]:
    """The plain mean of the eight accuracies, as the papers have it."""
    accuracies = {score.subtask: score for score in scores if score.metric == "accuracy"}
    wanted = [task.cell(subtask).subtask for subtask in AVERAGED]
    if not all(subtask in accuracies for subtask in wanted):
        return []
    values = [accuracies[subtask].value for subtask in wanted]
    samples = sum(accuracies[subtask].samples for subtask in wanted)
    cell = task.cell(AVERAGE)
    mean = sum(values) / len(values)
    return [Score(cell.subtask, cell.tokens, cell.length, "accuracy", mean, samples)]


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
