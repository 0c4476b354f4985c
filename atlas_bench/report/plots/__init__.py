"""Plots of records, and the choice of those for which a task's records have something to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from atlas_bench.artifacts.metrics import POSITION_LOSS
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.depths import depth_figure
from atlas_bench.report.plots.lines import (
    accuracy_figure,
    cost_figure,
    position_loss_figure,
    state_figure,
)
from atlas_bench.report.plots.training import loss_figure
from atlas_bench.report.row_groups import merge_seeds


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
    figures: list[tuple[str, str, Figure | None]] = []
    for name in metrics:
        words = name.replace("_", " ")
        if name == POSITION_LOSS.name:
            figures.append((name, "loss over positions", position_loss_figure(records)))
        elif _has_lengths(records, name):
            file = "accuracy" if name == metrics[0] else f"accuracy_{name}"
            title = f"{words} over context length"
            figures.append((file, title, accuracy_figure(records, name)))
    groups = [group for group in merge_seeds(records) if any(each.depths for each in group.records)]
    for number, group in enumerate(groups, start=1):
        file = "depths" if len(groups) == 1 else f"depths_{number}"
        figures.append((file, f"{group.label} by depth of the answer", depth_figure(group.records)))
    title = f"{metrics[0].replace('_', ' ')} over state size"
    figures += [
        ("loss", "training loss over tokens", loss_figure(records)),
        ("state", title, state_figure(records, metrics[0])),
        ("cost", "speed and memory over context length", cost_figure(records)),
    ]
    return [Plot(name, title, figure) for name, title, figure in figures if figure is not None]


def _has_lengths(records: Sequence[Record], metric: str) -> bool:
    """Whether any subtask has scores at two lengths."""
    scores = [score for each in records for score in each.scores if score.metric == metric]
    lengths = {(score.subtask, score.length_tokens) for score in scores}
    return len(lengths) > len({score.subtask for score in scores})
