"""Plots of lines: scores over length, positions and state size, and cost over length.

Every figure has one line per row of the tables, in as many panels as it needs. It is None if the
records have nothing to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from atlas_bench.artifacts.metrics import POSITION_LOSS, Metric
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report.plots.style import (
    GREY,
    STYLE,
    draw_legend,
    line_styles,
    panels,
    set_length_axis,
    set_log_ticks,
    set_metric_axis,
)
from atlas_bench.report.row_groups import Estimate, Length, RunGroup, merge_seeds, natural

LENGTH_LABEL = "context length (tokens)"


# scores over length ------------------------------------------------------------------------


def accuracy_figure(records: Iterable[Record], metric: str | None = None) -> Figure | None:
    """One panel for each task and subtask; without ``metric``, the first that the records have.

    The band is the 95% Wilson interval of a single seed, or mean -+ standard deviation of several.
    A dotted line marks ``protocol["chance"]``: a number, or one for each subtask.
    """
    records = list(records)
    scores = [score for record in records for score in record.scores]
    if metric is None and scores:
        metric = scores[0].metric
    groups = [group for group in merge_seeds(records) if group.subtasks(metric)]
    subtasks = sorted(
        {(group.first.task, subtask) for group in groups for subtask in group.subtasks(metric)},
        key=lambda panel: (panel[0], natural(panel[1])),
    )
    if not subtasks:
        return None
    declared = groups[0].first.metric(metric)
    with matplotlib.rc_context(STYLE):
        figure, all_axes = panels(len(subtasks), LENGTH_LABEL, declared.words, sharey=True)
        for axes, (task, subtask) in zip(all_axes, subtasks, strict=True):
            of_task = [group for group in groups if group.first.task == task]
            lengths: set[Length] = set()
            for group, style in _styled(groups):
                found = group.over_length(subtask, metric) if group in of_task else {}
                lengths |= set(found)
                tokens = [tokens for tokens, _ in found]
                shade = 0.13 if len(groups) <= 4 else 0.07  # overlapping bands get too dark
                _draw_line(axes, tokens, list(found.values()), group.label, style, shade, declared)
            _draw_chance(axes, of_task, subtask)
            axes.set_title(f"{task} {subtask}", loc="left")
            set_metric_axis(axes, declared)
            set_length_axis(axes, lengths)
        legend = draw_legend(figure, last="chance")
        legend.set_title(_band_title(groups, metric), prop={"size": 9})
        legend.get_title().set_color(GREY)
    return figure


def position_loss_figure(records: Iterable[Record]) -> Figure | None:
    """One panel for each length of window; does the loss keep falling as the context grows?

    A point is the mean loss in nats over a range of positions, each as wide as all before it; all
    points of a panel are of the same windows.
    """
    metric = POSITION_LOSS.name  # its subtasks are ranges of positions, such as 256-511
    groups = [group for group in merge_seeds(records) if group.subtasks(metric)]
    keys = {key for group in groups for key in group.estimates if key[1] == metric}
    lengths = sorted({length for _, _, length in keys})
    if not lengths:
        return None
    with matplotlib.rc_context(STYLE):
        labels = ("position in the window (tokens)", "loss (nats a token)")
        figure, all_axes = panels(len(lengths), *labels, sharey=True)
        for axes, length in zip(all_axes, lengths, strict=True):
            ranges = sorted({subtask for subtask, _, at in keys if at == length}, key=natural)
            for group, style in _styled(groups):
                found = [group.estimates.get((name, metric, length)) for name in ranges]
                places = [place for place, each in enumerate(found) if each is not None]
                points = [each for each in found if each is not None]
                _draw_line(axes, places, points, group.label, style, 0.13, POSITION_LOSS)
            axes.set_xticks(range(len(ranges)), ranges, rotation=45, ha="right")
            axes.set_title(f"windows of {length[1]}", loc="left", color=GREY)
        draw_legend(figure)
    return figure


def _draw_line(
    axes: Axes,
    places: Sequence[int],
    points: Sequence[Estimate],
    label: str,
    style: dict[str, object],
    shade: float,
    metric: Metric,
) -> None:
    """A line with a band from the low to the high ends of its points."""
    if not points:
        return
    axes.plot(places, [point.value for point in points], label=label, **style)
    low = [point.value if point.low is None else max(0.0, point.low) for point in points]
    high = [point.value if point.high is None else point.high for point in points]
    if metric.in_per_cent:
        high = [min(1.0, value) for value in high]
    axes.fill_between(places, low, high, color=style["color"], alpha=shade, linewidth=0)


def _draw_chance(axes: Axes, groups: Sequence[RunGroup], subtask: str) -> None:
    chances = set()
    for group in groups:
        chance = group.first.protocol.get("chance")
        chance = chance.get(subtask) if isinstance(chance, dict) else chance
        if isinstance(chance, (int, float)):
            chances.add(float(chance))
    for chance in sorted(chances):
        axes.axhline(chance, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label="chance")


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


def _styled(groups: Sequence[RunGroup]) -> Iterable[tuple[RunGroup, dict[str, object]]]:
    """Groups with the style of their line, the same in every panel."""
    styles = line_styles(group.name for group in groups)
    return [(group, styles[group.name]) for group in groups]


# cost and state ----------------------------------------------------------------------------


def cost_figure(records: Iterable[Record]) -> Figure | None:
    """Tokens read per second and peak memory over length; means over seeds and subtasks."""
    groups = merge_seeds(records)
    quantities = [
        ("tokens read a second", "", lambda score: score.tokens_per_second),
        ("peak memory", "B", lambda score: score.peak_memory_bytes),
    ]
    measured = [
        (title, unit, [_mean_by_length(group, read) for group in groups])
        for title, unit, read in quantities
    ]
    measured = [each for each in measured if any(each[2])]
    if not measured:
        return None
    with matplotlib.rc_context(STYLE):
        figure, all_axes = panels(len(measured), LENGTH_LABEL)
        for axes, (title, unit, costs) in zip(all_axes, measured, strict=True):
            for (group, style), cost in zip(_styled(groups), costs, strict=True):
                if cost:
                    tokens, values = [at for at, _ in cost], list(cost.values())
                    axes.plot(tokens, values, label=group.label, **style)
            axes.set_title(title, loc="left")
            axes.set_yscale("log")
            set_log_ticks(axes.yaxis, EngFormatter(unit, sep=""))
            set_length_axis(axes, {length for cost in costs for length in cost})
        draw_legend(figure)
    return figure


def _mean_by_length(group: RunGroup, read: Callable[[Score], float | None]) -> dict[Length, float]:
    values: dict[Length, list[float]] = {}
    for record in group.records:
        for score in record.scores:
            if value := read(score):  # 0 stands for: not measured
                values.setdefault((score.length_tokens, score.length_name), []).append(value)
    return {length: mean(values[length]) for length in sorted(values)}


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
    with matplotlib.rc_context(STYLE):
        figure, all_axes = panels(
            *(len(subtasks), "state of one sequence (bytes)", declared.words),
            sharey=True,
            sharex=True,
        )
        styles = line_styles(group.first.model for group in groups)
        for axes, subtask in zip(all_axes, subtasks, strict=True):
            for model, style in styles.items():
                points = sorted(
                    (group.first.state_bytes, list(scored.values())[-1].value)
                    for group in groups
                    if group.first.model == model and (scored := group.over_length(subtask, metric))
                )
                if points:
                    axes.plot(*zip(*points, strict=True), label=model, **style)
            axes.set_title(subtask, loc="left")
            axes.set_xscale("log")
            set_log_ticks(axes.xaxis, EngFormatter("B", sep=""))
            if declared.in_per_cent:
                set_metric_axis(axes, declared)
        draw_legend(figure)
    return figure
