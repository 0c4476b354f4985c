"""Plots of lines: scores over length, positions and state size, and cost over length.

Every figure has one line per row of the tables, in as many panels as it needs. It is None if the
records have nothing to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from atlas_bench.artifacts.metrics import POSITION_LOSS, Metric
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import (
    CHANCE,
    GREY,
    STYLE,
    draw_legend,
    line_styles,
    panels,
    set_length_axis,
    set_log_axis,
    set_metric_axis,
)
from atlas_bench.report.row_groups import Cell, Length, RunGroup, merge_seeds, natural

LENGTH_LABEL = "context length (tokens)"
SHADE, PALE_SHADE = 0.13, 0.07  # of bands; many that overlap get too dark
COSTS = {  # fields of a score by what they are, with their unit
    "tokens read a second": ("tokens_per_second", ""),
    "peak memory": ("peak_memory_bytes", "B"),
}


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
    legend = draw_legend(figure)
    legend.set_title(_band_title(groups, metric), prop={"size": 9})
    legend.get_title().set_color(GREY)
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
