"""What a finished run shows: plots, tables and the tracker."""

from __future__ import annotations

from pathlib import Path

from atlas_bench.artifacts.schema import Record
from atlas_bench.evaluation.context import Run
from atlas_bench.report.plots.depths import depth_figure
from atlas_bench.report.plots.lines import accuracy_figure, position_loss_figure
from atlas_bench.report.plots.style import save
from atlas_bench.report.plots.training import read_metrics, training_figure
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.suites.task import ZERO_SHOT
from atlas_bench.tasks.task import ONLINE


def _show(run: Run, record: Record, path: Path, others: list[Record]) -> None:
    """Plots, table and W&B, from a record that is already safe on disk; in W&B with the scores of
    the run's other evaluations."""
    plots = draw_plots(run, record)
    for table in rich_tables([record]):
        run.console.print(table)
    if "accuracy" in plots:
        run.console.print(f"plot    {plots['accuracy']}")
    run.console.print(f"record  {path}")
    run.logger.finish(
        path,
        [vars(score) for each in (record, *others) for score in each.scores],
        list(plots.values()),
        _facts(record),
    )


def draw_plots(run: Run, record: Record) -> dict[str, Path]:
    """The run's plots, by name, of those for which it has something to draw."""
    figures = {}
    if run.settings.mode != "eval" and run.task.kind != ONLINE:
        figures["training"] = training_figure(read_metrics(run.folder.metrics))
    if any(score.length_name != ZERO_SHOT for score in record.scores):
        figures["accuracy"] = accuracy_figure([record])
    figures["depths"] = depth_figure([record])
    figures["position_loss"] = position_loss_figure([record])
    return {
        name: save(figure, run.folder.plots / f"{name}.png")
        for name, figure in figures.items()
        if figure is not None
    }


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
