"""A run's scores: every cell of its task answered, judged and written down."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from atlas_bench.artifacts.schema import Score, Scores
from atlas_bench.config.errors import ConfigError
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.labelled import score_labelled
from atlas_bench.evaluation.lm_eval.suites import score_suite
from atlas_bench.evaluation.online import score_online
from atlas_bench.evaluation.questions import score_questions
from atlas_bench.evaluation.streaming import DoesNotFit
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.tasks.task import ONLINE, QUESTIONS, SUITE, Task
from atlas_bench.tracking import RunLogger

if TYPE_CHECKING:
    from atlas_bench.evaluation.context import Run


def evaluate(run: Run, notes: list[str]) -> Scores:
    """Scores of every cell; one whose state does not fit is skipped with a note."""
    run.model.eval()
    run.folder.predictions.unlink(missing_ok=True)  # an evaluation that was stopped left them
    found = Scores()
    try:
        if run.task.kind == SUITE:
            found.scores = score_suite(run, notes)
        elif run.task.kind == ONLINE:
            found.scores = score_online(run)
        else:
            _evaluate(run, notes, found)
    except (ConfigError, DoesNotFit, Interrupted):
        raise
    except ValueError as error:  # what a task cannot make
        raise ConfigError(str(error)) from error
    return found


def validation_task(run: Run) -> Task | None:
    """The same task on other samples, to stop training and to choose settings by; None where there
    are none. Raises ConfigError for what the task cannot make."""
    try:
        return run.task.validation(run.settings.validation_samples)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def validate(run: Run, notes: list[str]) -> list[Score]:
    """The scores of `validation_task`."""
    task = validation_task(run)
    if task is None:
        return []
    folder = run.folder.validation
    folder.path.mkdir(exist_ok=True)
    logger = RunLogger("disabled")  # of what it learns; the record has its scores
    return evaluate(replace(run, task=task, folder=folder, logger=logger), notes).scores


def _evaluate(run: Run, notes: list[str], found: Scores) -> None:
    task = run.task
    asks = task.kind == QUESTIONS
    if not asks and not isinstance(run.model, LanguageModel):
        raise ConfigError(
            f"task={task.settings.name} scores token by token, which model.hub does not give"
        )
    # Draw one sample of everything first: a length that cannot be must not cost an evaluation.
    for cell in task.cells():
        next(iter(task.questions(cell, 1) if asks else task.labelled_batches(cell)))
    with progress_bars(run.console) as bars:
        for cell in task.cells():
            title = f"{cell.subtask} {cell.length}"
            bar = bars.add_task(title, total=task.samples if asks else None, note="")
            advance = partial(bars.advance, bar)
            try:
                if asks:
                    scores, depths = score_questions(run, cell, advance)
                    found.depths += depths
                else:
                    scores = score_labelled(run, cell, advance)
            except DoesNotFit as error:
                notes.append(f"{title}: {error}")
                run.console.print(f"{title}: {error}", style="yellow")
                continue
            found.scores += scores
            if run.stop():
                raise Interrupted
