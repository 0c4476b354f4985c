"""What a finished run shows: plots, tables and the tracker."""

from __future__ import annotations

from pathlib import Path

from atlas_bench.artifacts.schema import Record
from atlas_bench.evaluation.context import Run
from atlas_bench.report.plots import (
    POSITION_LOSS,
    plot_accuracy,
    plot_depths,
    plot_position_loss,
    plot_training,
)
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.suites.task import ZERO_SHOT
from atlas_bench.tasks.task import ONLINE


def _show(run: Run, record: Record, path: Path, others: list[Record]) -> None:
    """Plots, table and W&B, from a record that is already safe on disk; in W&B with the scores of
    the run's other evaluations."""
    plots = run.folder.plots
    drawn = []
    if run.settings.mode != "eval" and run.task.kind != ONLINE:
        drawn.append(plot_training(run.folder.metrics, plots / "training.png"))
    over_length = any(score.length_name != ZERO_SHOT for score in record.scores)
    plot = plot_accuracy([record], plots / "accuracy.png") if over_length else None
    if record.depths:
        drawn.append(plot_depths(record, plots / "depths.png"))
    if any(score.metric == POSITION_LOSS for score in record.scores):
        drawn.append(plot_position_loss([record], plots / "position_loss.png"))
    for table in rich_tables([record]):
        run.console.print(table)
    if plot:
        run.console.print(f"plot    {plot}")
    run.console.print(f"record  {path}")
    run.logger.finish(
        path,
        [vars(score) for each in (record, *others) for score in each.scores],
        [*drawn, plot] if plot else drawn,
        _facts(record),
    )


def _facts(record: Record) -> dict[str, float]:
    """What W&B shows in its table of runs beside the scores."""
    facts = {
        "parameters": record.parameters,
        "state_bytes": record.state_bytes,
        "train/tokens": record.train_tokens,
        "train/seconds": record.train_seconds,
        "wall_seconds": record.wall_seconds,
        "peak_memory_bytes": max(
            (score.peak_memory_bytes or 0 for score in record.scores), default=0
        ),
        "validation/score": record.validation_score,
    }
    return {name: value for name, value in facts.items() if value is not None}
