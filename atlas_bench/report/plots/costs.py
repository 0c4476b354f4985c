"""Plots of what an evaluation cost: speed and memory over length, accuracy over state size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from atlas_bench.artifacts.metrics import Metric
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report.plots.style import (
    STYLE,
    draw_legend,
    is_leftmost,
    is_lowest,
    line_styles,
    panels,
    set_length_axis,
    set_log_ticks,
)
from atlas_bench.report.rows import Length, Row, merge_runs, natural

Read = Callable[[Score], float | None]


def cost_figure(records: Iterable[Record]) -> Figure | None:
    """Tokens read a second and the peak of memory over length, a line for every row of the tables.

    Means over seeds and subtasks; None where no record has either.
    """
    rows = merge_runs(records)
    shown: list[tuple[str, str, Read]] = [
        ("tokens read a second", "", lambda score: score.tokens_per_second),
        ("peak memory", "B", lambda score: score.peak_memory_bytes),
    ]
    shown = [each for each in shown if any(_by_length(row, each[2]) for row in rows)]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure, grid = panels(len(shown))
        styles = line_styles(row.name for row in rows)
        for axes, (title, unit, read) in zip(grid, shown, strict=True):
            lengths: set[Length] = set()
            for row in rows:
                found = _by_length(row, read)
                lengths |= set(found)
                points = sorted(found.items())
                if points:
                    tokens = [length[0] for length, _ in points]
                    values = [value for _, value in points]
                    axes.plot(tokens, values, label=row.label, **styles[row.name])
            axes.set_title(title, loc="left")
            axes.set_yscale("log")
            set_log_ticks(axes.yaxis, EngFormatter(unit, sep=""))
            set_length_axis(axes, lengths)
            axes.set_xlabel("context length (tokens)")
        draw_legend(figure)
    return figure


def _by_length(row: Row, read: Read) -> dict[Length, float]:
    found: dict[Length, list[float]] = {}
    for record in row.records:
        for score in record.scores:
            value = read(score)
            if value:  # nothing was measured where it is 0
                found.setdefault((score.length_tokens, score.length_name), []).append(value)
    return {length: mean(values) for length, values in found.items()}


# accuracy over state size ------------------------------------------------------------------


def state_figure(records: Iterable[Record], metric: str) -> Figure | None:
    """A metric over the bytes that a model keeps of a sequence, a panel for each subtask.

    At the longest length that a run was scored at, for which its state is told. Sizes of one model
    are joined by a line. None where no record tells its state.
    """
    rows = [row for row in merge_runs(records) if row.records[0].state_bytes]
    subtasks = sorted({each for row in rows for each in row.subtasks(metric)}, key=natural)
    if not subtasks:
        return None
    with matplotlib.rc_context(STYLE):
        figure, grid = panels(len(subtasks), sharey=True, sharex=True)
        styles = line_styles(row.records[0].model for row in rows)
        for index, (axes, subtask) in enumerate(zip(grid, subtasks, strict=True)):
            for model, style in styles.items():
                of_model = [row for row in rows if row.records[0].model == model]
                _draw_states(axes, of_model, subtask, metric, style)
            axes.set_title(subtask, loc="left")
            _set_state_axes(axes, rows[0].records[0].metric(metric))
            if is_lowest(index, len(subtasks)):
                axes.set_xlabel("state of one sequence (bytes)")
            if is_leftmost(index, len(subtasks)):
                axes.set_ylabel(metric.replace("_", " "))
        draw_legend(figure)
    return figure


def _draw_states(
    axes: Axes, rows: Sequence[Row], subtask: str, metric: str, style: dict[str, object]
) -> None:
    points = []
    for row in rows:
        cells = {
            length: cell
            for (name, of_metric, length), cell in row.cells.items()
            if (name, of_metric) == (subtask, metric)
        }
        if cells:
            points.append((row.records[0].state_bytes, cells[max(cells)].value))
    if points:
        points.sort()
        sizes, values = zip(*points, strict=True)
        axes.plot(sizes, values, label=rows[0].records[0].model, **style)


def _set_state_axes(axes: Axes, metric: Metric) -> None:
    axes.set_xscale("log")
    set_log_ticks(axes.xaxis, EngFormatter("B", sep=""))
    if metric.is_share:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
