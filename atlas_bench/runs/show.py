"""The end of a run: plots, a table in the terminal, and the tracker."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_bench.artifacts.metrics import POSITION_LOSS
from atlas_bench.artifacts.schema import Record
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.report.plots import (
    plot_accuracy,
    plot_depths,
    plot_position_loss,
    plot_training,
)
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.suites.task import ZERO_SHOT


def show(
    context: EvaluationContext, record: Record, others: Sequence[Record], *, trained: bool
) -> None:
    """Plot and print a record that is safe on disk, and log it.

    The tracker also gets the scores of ``others``, the run's other evaluations. ``trained``: the
    folder has metrics of training steps.
    """
    folder, plots = context.folder, []
    if trained:
        plots.append(plot_training(folder.metrics, folder.plots / "training.png"))
    if record.depths:
        plots.append(plot_depths(record, folder.plots / "depths.png"))
    if any(score.metric == POSITION_LOSS.name for score in record.scores):
        plots.append(plot_position_loss([record], folder.plots / "position_loss.png"))
    accuracy = None
    if any(score.length_name != ZERO_SHOT for score in record.scores):
        accuracy = plot_accuracy([record], folder.plots / "accuracy.png")
    for table in rich_tables([record]):
        context.console.print(table)
    if accuracy:
        plots.append(accuracy)
        context.console.print(f"plot    {accuracy}")
    context.console.print(f"record  {folder.record}")
    rows = [vars(score) for each in (record, *others) for score in each.scores]
    context.tracker.finish(folder.record, rows, plots, _facts(record))


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
