"""Plots of records: scores over length, positions, depth and state size, and cost over length.

Lines are the rows of the tables. A figure is None if the records have nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from atlas_bench.artifacts.metrics import POSITION_LOSS, Metric
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import (
    CHANCE,
    GREY,
    PANELS_ACROSS,
    PER_CENT,
    STYLE,
    draw_legend,
    line_styles,
    panels,
    set_length_axis,
    set_log_axis,
    set_metric_axis,
)
from atlas_bench.report.plots.training import loss_figure
from atlas_bench.report.row_groups import Cell, Length, RunGroup, merge_seeds, natural

LENGTH_LABEL = "context length (tokens)"
SHADE, PALE_SHADE = 0.13, 0.07  # opacity of a band; pale where many overlap
COSTS = {  # fields of a score by what they are, with their unit
    "tokens read a second": ("tokens_per_second", ""),
    "peak memory": ("peak_memory_bytes", "B"),
}
Place = tuple[Length, float, float]  # and the bounds of the depth, from 0 to 1


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


@matplotlib.rc_context(STYLE)
def accuracy_figure(records: Iterable[Record], metric: str | None = None) -> Figure | None:
    """Scores of one task over length, one panel for each subtask; without ``metric``, the first.

    The band is the 95% Wilson interval of a single seed, or mean -+ standard deviation of several.
    A dotted line marks ``protocol["chance"]``: a number, or one for each subtask.
    """
    groups = merge_seeds(records)
    metric = metric or next((group.first.scores[0].metric for group in groups), None)
    groups, keys = _scored(groups, metric)
    if not groups:
        return None
    subtasks = sorted({subtask for subtask, _, _ in keys}, key=natural)
    titles = [f"{groups[0].first.task} {subtask}" for subtask in subtasks]
    declared = groups[0].first.metric(metric)
    figure, all_axes = panels(titles, LENGTH_LABEL, declared.words, sharey=True)
    for axes, subtask in zip(all_axes, subtasks, strict=True):
        cells = sorted((key[2][0], key) for key in keys if key[0] == subtask)
        _draw_bands(axes, groups, cells, declared, SHADE if len(groups) <= 4 else PALE_SHADE)
        for chance in sorted({group.chance(subtask) for group in groups} - {None}):
            axes.axhline(chance, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label=CHANCE)
        set_metric_axis(axes, declared)
        set_length_axis(axes, {length for _, (_, _, length) in cells})
    draw_legend(figure, _band_title(groups, metric))
    return figure


@matplotlib.rc_context({**STYLE, "axes.titlecolor": GREY})
def position_loss_figure(records: Iterable[Record]) -> Figure | None:
    """One panel for each length of window; does the loss keep falling as the context grows?

    A point is the mean loss in nats over a range of positions, each as wide as all before it; all
    points of a panel are of the same windows.
    """
    groups, keys = _scored(merge_seeds(records), POSITION_LOSS.name)
    if not groups:
        return None
    lengths = sorted({length for _, _, length in keys})
    labels = ("position in the window (tokens)", "loss (nats a token)")
    figure, all_axes = panels([f"windows of {name}" for _, name in lengths], *labels, sharey=True)
    for axes, length in zip(all_axes, lengths, strict=True):
        # The subtasks are ranges of positions, such as 256-511.
        cells = sorted((key for key in keys if key[2] == length), key=lambda key: natural(key[0]))
        _draw_bands(axes, groups, list(enumerate(cells)), POSITION_LOSS, SHADE)
        ranges = [subtask for subtask, _, _ in cells]
        axes.set_xticks(range(len(ranges)), ranges, rotation=45, ha="right")
    draw_legend(figure)
    return figure


def _scored(groups: Sequence[RunGroup], metric: str | None) -> tuple[list[RunGroup], set[Cell]]:
    """The groups with scores of ``metric``, and the cells of these scores."""
    groups = [group for group in groups if group.subtasks(metric)]
    return groups, {cell for group in groups for cell in group.estimates if cell[1] == metric}


def _draw_bands(
    axes: Axes,
    groups: Sequence[RunGroup],
    cells: Sequence[tuple[int, Cell]],
    metric: Metric,
    shade: float,
) -> None:
    """A line for each group over ``cells``, which have their places on the axis, with a band from
    the low to the high ends of its points."""
    styles = line_styles(group.name for group in groups)
    for group in groups:
        style = styles[group.name]
        found = [(place, group.estimates[cell]) for place, cell in cells if cell in group.estimates]
        if not found:
            continue
        places, points = zip(*found, strict=True)
        axes.plot(places, [point.value for point in points], label=group.label, **style)
        low = [point.value if point.low is None else max(0.0, point.low) for point in points]
        high = [point.value if point.high is None else point.high for point in points]
        if metric.in_per_cent:
            high = [min(1.0, value) for value in high]
        axes.fill_between(places, low, high, color=style["color"], alpha=shade, linewidth=0)


def _band_title(groups: Sequence[RunGroup], metric: str) -> str:
    points = [
        point for group in groups for key, point in group.estimates.items() if key[1] == metric
    ]
    samples = sorted({point.samples for point in points})
    counts = f"{samples[0]}" if len(samples) == 1 else f"{samples[0]} to {samples[-1]}"
    bands = []
    if any(point.seeds == 1 and point.low is not None for point in points):
        bands.append("95% Wilson interval")
    if any(point.seeds > 1 for point in points):
        bands.append("standard deviation over seeds")
    band = f"band: {' or '.join(bands)}; " if bands else ""
    return f"{band}{counts} samples a point"


@matplotlib.rc_context(STYLE)
def cost_figure(records: Iterable[Record]) -> Figure | None:
    """Tokens read per second and peak memory over length; means over seeds and subtasks."""
    groups = merge_seeds(records)
    styles = line_styles(group.name for group in groups)
    measured = {
        title: costs
        for title, (field, _) in COSTS.items()
        if any(costs := [_mean_by_length(group, field) for group in groups])
    }
    if not measured:
        return None
    figure, all_axes = panels(list(measured), LENGTH_LABEL)
    for axes, (title, costs) in zip(all_axes, measured.items(), strict=True):
        for group, cost in zip(groups, costs, strict=True):
            if cost:
                tokens, values = [at for at, _ in cost], list(cost.values())
                axes.plot(tokens, values, label=group.label, **styles[group.name])
        set_log_axis(axes.yaxis, EngFormatter(COSTS[title][1], sep=""))
        set_length_axis(axes, {length for cost in costs for length in cost})
    draw_legend(figure)
    return figure


def _mean_by_length(group: RunGroup, field: str) -> dict[Length, float]:
    values: dict[Length, list[float]] = {}
    for record in group.records:
        for score in record.scores:
            if value := getattr(score, field):  # 0 stands for: not measured
                values.setdefault((score.length_tokens, score.length_name), []).append(value)
    return {length: mean(values[length]) for length in sorted(values)}


@matplotlib.rc_context(STYLE)
def state_figure(records: Iterable[Record], metric: str) -> Figure | None:
    """A metric over the bytes that a model keeps of a sequence; one panel for each subtask.

    The score is that of the longest length, for which the record states the size. A line joins the
    sizes of one model.
    """
    groups = [group for group in merge_seeds(records) if group.first.state_bytes]
    subtasks = sorted({name for group in groups for name in group.subtasks(metric)}, key=natural)
    if not subtasks:
        return None
    declared = groups[0].first.metric(metric)
    labels = ("state of one sequence (bytes)", declared.words)
    figure, all_axes = panels(subtasks, *labels, sharey=True, sharex=True)
    styles = line_styles(group.first.model for group in groups)
    for axes, subtask in zip(all_axes, subtasks, strict=True):
        for model, style in styles.items():
            points = []
            for group in groups:
                found = [cell for cell in group.estimates if cell[:2] == (subtask, metric)]
                if group.first.model == model and found:
                    points.append((group.first.state_bytes, group.estimates[max(found)].value))
            if points:
                axes.plot(*zip(*sorted(points), strict=True), label=model, **style)
        set_log_axis(axes.xaxis, EngFormatter("B", sep=""))
        if declared.in_per_cent:
            set_metric_axis(axes, declared)
    draw_legend(figure)
    return figure


@matplotlib.rc_context({**STYLE, "axes.grid": False})
def depth_figure(records: Sequence[Record]) -> Figure | None:
    """One heat map for each subtask, of the first metric: lengths across, depths down.

    A field shows the mean over the runs in per cent; where no answer lay there is none. None if no
    run has scores by depth.
    """
    scores = [score for record in records for score in record.depths]
    if not scores:
        return None
    first, metric = records[0], records[0].metric(scores[0].metric)
    values: dict[str, dict[Place, list[float]]] = {}
    for score in scores:
        if score.metric == metric.name:
            length = (score.length_tokens, score.length_name)
            place = (length, score.depth_low, score.depth_high)
            values.setdefault(score.subtask, {}).setdefault(place, []).append(score.value)
    lengths = sorted({length for places in values.values() for length, _, _ in places})
    figure, all_axes = panels(list(values), "context length", "depth of the answer", sharey=True)
    across = min(len(values), PANELS_ACROSS)
    figure.set_size_inches(
        max(1.6 + across * (1.2 + 0.55 * len(lengths)), 4.5),
        3.4 * math.ceil(len(values) / across) + 0.6,
    )
    for axes, places in zip(all_axes, values.values(), strict=True):
        mesh = _draw_depths(axes, {place: mean(same) for place, same in places.items()}, lengths)
    bar = figure.colorbar(mesh, ax=figure.axes, label=metric.words, aspect=30)
    bar.ax.yaxis.set_major_formatter(PER_CENT)
    figure.suptitle(f"{first.model} {first.scale}, {first.task}", fontsize=12)
    return figure


def _draw_depths(axes: Axes, means: dict[Place, float], lengths: Sequence[Length]) -> QuadMesh:
    """A rectangle for each place; the beginning of the context is on top."""
    bounds = sorted({bound for _, *depths in means for bound in depths} | {0.0, 1.0})
    values = np.full((len(bounds) - 1, len(lengths)), math.nan)
    for (length, low, high), value in means.items():
        column = lengths.index(length)
        values[bounds.index(low), column] = value
        colour = "white" if value < 0.5 else "black"
        style = {"ha": "center", "va": "center", "fontsize": 8, "color": colour}
        axes.text(column, (low + high) / 2, f"{100 * value:.0f}", **style)
    edges = np.arange(len(lengths) + 1) - 0.5
    mesh = axes.pcolormesh(edges, bounds, values, vmin=0, vmax=1, cmap="cividis")
    axes.set_xticks(range(len(lengths)), [name for _, name in lengths])
    axes.set_ylim(1, 0)
    axes.yaxis.set_major_formatter(PER_CENT)
    return mesh
