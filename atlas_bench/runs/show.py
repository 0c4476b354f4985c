"""The end of a run: plots, a table in the terminal, and the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.schema import Record
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.report.plots.figures import (
    accuracy_figure,
    depth_figure,
    position_loss_figure,
)
from atlas_bench.report.plots.style import save
from atlas_bench.report.plots.training import read_metrics, training_figure
from atlas_bench.report.tables import rich_table, score_tables
from atlas_bench.tasks.suites.task import ZERO_SHOT


def show(
    context: EvaluationContext, record: Record, others: Sequence[Record], *, trained: bool
) -> None:
    """Plot and print a record that is safe on disk, and log it.

    The tracker also gets the scores of ``others``, the run's other evaluations. ``trained``: the
    folder has metrics of training steps.
    """
    folder = context.folder
    plots = draw_plots(folder, record, trained=trained)
    for table in score_tables([record]):
        context.console.print(rich_table(table))
    if "accuracy" in plots:
        context.console.print(f"plot    {plots['accuracy']}")
    context.console.print(f"record  {folder.record}")
    rows = [vars(score) for each in (record, *others) for score in each.scores]
    context.tracker.finish(folder.record, rows, list(plots.values()), _facts(record))


def draw_plots(folder: RunFolder, record: Record, *, trained: bool) -> dict[str, Path]:
    """The plots that the run has data for, by name."""
    figures = {}
    if trained:
        figures["training"] = training_figure(read_metrics(folder.metrics))
    if any(score.length_name != ZERO_SHOT for score in record.scores):
        figures["accuracy"] = accuracy_figure([record])
    figures["depths"] = depth_figure([record])
    figures["position_loss"] = position_loss_figure([record])
    return {
        name: save(figure, folder.plots / f"{name}.png")
        for name, figure in figures.items()
        if figure is not None
    }


def _facts(record: Record) -> dict[str, float]:
    """What a tracker shows of a run beside its scores."""
    peaks = [score.peak_memory_bytes or 0 for score in record.scores]
    facts = {
        "parameters": record.parameters,
        "state_bytes": record.state_bytes,
        "train/tokens": record.train_tokens,
        "train/seconds": record.train_seconds,
        "wall_seconds": record.wall_seconds,
        "peak_memory_bytes": max(peaks, default=0),
        "validation/score": record.validation_score,
    }
    return {name: value for name, value in facts.items() if value is not None}
