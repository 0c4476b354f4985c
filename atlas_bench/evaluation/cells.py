"""The cells of a task, scored one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.progress import TaskID

from atlas_bench.artifacts.folder import append_lines
from atlas_bench.artifacts.schema import DepthScore, Score, Scores
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.memory_use import DoesNotFit
from atlas_bench.interrupts import Interrupted
from atlas_bench.tasks.task import Cell, MetricValue


def score_cells(
    context: EvaluationContext,
    cells: Sequence[Cell],
    score: Callable[[Cell, Callable[[], None]], Scores],
    *,
    total: int | None = None,
) -> Scores:
    """The scores of ``score(cell, advance)`` for all cells, with a progress bar of ``total`` steps.

    A cell that an earlier, stopped evaluation scored is not scored again. A cell whose state does
    not fit into memory is skipped with a note.
    """
    scores = Scores()
    with progress_bars(context.console) as bars:
        for cell in cells:
            title = f"{cell.subtask} {cell.length}"
            bar = bars.add_task(title, total=total, note="")
            if context.should_stop():
                raise Interrupted

            def work(cell: Cell = cell, bar: TaskID = bar) -> dict[str, Any]:
                return asdict(score(cell, partial(bars.advance, bar)))

            try:
                found = context.once(title, work)
            except DoesNotFit as error:
                context.notes.append(f"{title}: {error}")
                context.console.print(f"{title}: {error}", style="yellow")
                continue
            scores.scores += [Score(**each) for each in found["scores"]]
            scores.depths += [DepthScore(**each) for each in found["depths"]]
            if found["predictions"]:
                append_lines(context.folder.predictions, found["predictions"])
    return scores


def as_score(value: MetricValue, cost: dict[str, float]) -> Score:
    """A metric's value as a score, with its interval and what it cost."""
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
