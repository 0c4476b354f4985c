"""Plots of records, and the choice of those for which a task's records have something to draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.accuracy import accuracy_figure, plot_accuracy
from atlas_bench.report.plots.costs import cost_figure, state_figure
from atlas_bench.report.plots.depths import depth_figure, merged_depths, plot_depths
from atlas_bench.report.plots.position_loss import (
    METRIC as POSITION_LOSS,
)
from atlas_bench.report.plots.position_loss import (
    plot_position_loss,
    position_loss_figure,
)
from atlas_bench.report.plots.style import save
from atlas_bench.report.plots.training import (
    loss_figure,
    plot_training,
    read_metrics,
    training_figure,
)
from atlas_bench.report.rows import merge_runs

__all__ = [
    "POSITION_LOSS",
    "Plot",
    "accuracy_figure",
    "depth_figure",
    "plot_accuracy",
    "plot_depths",
    "plot_position_loss",
    "plot_training",
    "plots_of",
    "read_metrics",
    "save",
    "training_figure",
]


@dataclass(frozen=True)
class Plot:
    """A figure, the name of its file without a suffix, and what it shows in a few words."""

    name: str
    title: str
    figure: Figure


def plots_of(records: Sequence[Record], metrics: Sequence[str]) -> list[Plot]:
    """All plots of the runs of one task, without those for which the records have nothing.

    ``metrics`` are drawn over length, the first of them over state size too; heat maps take the
    first that was scored by depth.
    """
    found = (
        ("loss", "training loss over tokens", loss_figure(records)),
        ("state", f"{_words(metrics[0])} over state size", state_figure(records, metrics[0])),
        ("cost", "speed and memory over context length", cost_figure(records)),
    )
    others = [Plot(name, title, figure) for name, title, figure in found if figure is not None]
    return [*_accuracies(records, metrics), *_depths(records), *others]


def _accuracies(records: Sequence[Record], metrics: Sequence[str]) -> Iterator[Plot]:
    for metric in metrics:
        if metric == POSITION_LOSS:  # its subtasks are positions
            yield Plot(POSITION_LOSS, "loss over positions", position_loss_figure(records))
            continue
        lengths = {
            (score.subtask, score.length_tokens)
            for record in records
            for score in record.scores
            if score.metric == metric
        }
        if len(lengths) == len({subtask for subtask, _ in lengths}):
            continue  # nothing has two lengths
        name = "accuracy" if metric == metrics[0] else f"accuracy_{metric}"
        figure = accuracy_figure(records, metric=metric)
        yield Plot(name, f"{_words(metric)} over context length", figure)


def _depths(records: Sequence[Record]) -> Iterator[Plot]:
    rows = [row for row in merge_runs(records) if any(record.depths for record in row.records)]
    for number, row in enumerate(rows, start=1):
        name = "depths" if len(rows) == 1 else f"depths_{number}"
        yield Plot(name, f"{row.label} by depth of the answer", depth_figure(merged_depths(row)))


def _words(metric: str) -> str:
    return metric.replace("_", " ")
