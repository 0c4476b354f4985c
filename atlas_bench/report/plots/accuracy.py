"""Plots of a metric over context length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from atlas_bench.artifacts.metrics import Metric
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import (
    GREY,
    STYLE,
    draw_legend,
    is_leftmost,
    is_lowest,
    line_styles,
    panels,
    save,
    set_length_axis,
    set_log_ticks,
)
from atlas_bench.report.rows import Cell, Length, Row, merge_runs, natural


def plot_accuracy(records: Iterable[Record], path: Path, *, metric: str | None = None) -> Path:
    """Draw a metric over length to ``path`` (.png or .svg), in one step; returns ``path``.

    Raises ValueError where no record has a score of ``metric``.
    """
    return save(accuracy_figure(records, metric=metric), path)


def accuracy_figure(records: Iterable[Record], *, metric: str | None = None) -> Figure:
    """One panel for each task and subtask, one line for each model; seeds merged as in tables.

    The band is the 95% Wilson interval of a single seed, or mean -+ standard deviation of several.
    A dotted line marks ``protocol["chance"]``: a number, or one for each subtask. Without
    ``metric``, the first that the records have.
    """
    records = list(records)
    if metric is None:
        scores = (score.metric for record in records for score in record.scores)
        metric = next(scores, "any metric")
    rows = [row for row in merge_runs(records) if row.subtasks(metric)]
    shown = sorted(
        {(row.identity[0], subtask) for row in rows for subtask in row.subtasks(metric)},
        key=lambda panel: (panel[0], natural(panel[1])),
    )
    if not shown:
        raise ValueError(f"no score of {metric} to plot")
    with matplotlib.rc_context(STYLE):
        figure, grid = panels(len(shown), sharey=True)
        for index, (axes, panel) in enumerate(zip(grid, shown, strict=True)):
            _draw_panel(axes, rows, panel, rows[0].records[0].metric(metric))
            if is_lowest(index, len(shown)):
                axes.set_xlabel("context length (tokens)")
            if is_leftmost(index, len(shown)):
                axes.set_ylabel(metric.replace("_", " "))
        _draw_legend(figure, rows, metric)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], panel: tuple[str, str], metric: Metric) -> None:
    task, subtask = panel
    lengths: set[Length] = set()
    shade = 0.13 if len(rows) <= 4 else 0.07  # many bands over each other get too dark
    styles = line_styles(row.name for row in rows)
    for row in rows:
        points = _points(row, task, subtask, metric.name)
        if not points:
            continue
        lengths |= {length for length, _ in points}
        tokens = [length[0] for length, _ in points]
        axes.plot(tokens, [cell.value for _, cell in points], label=row.label, **styles[row.name])
        low = [cell.value if cell.low is None else max(0.0, cell.low) for _, cell in points]
        high = [cell.value if cell.high is None else cell.high for _, cell in points]
        if metric.is_share:
            high = [min(1.0, value) for value in high]
        axes.fill_between(
            tokens, low, high, color=styles[row.name]["color"], alpha=shade, linewidth=0
        )
    _draw_chance(axes, [row for row in rows if row.identity[0] == task], subtask)
    axes.set_title(f"{task} {subtask}", loc="left")
    if metric.is_share:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_yticks(np.linspace(0, 1, 6))
    elif metric.unit == "ratio":  # halved and halved again
        axes.set_yscale("log")
        set_log_ticks(axes.yaxis, FuncFormatter(lambda value, _: f"{value:g}"))
    set_length_axis(axes, lengths)


def _points(row: Row, task: str, subtask: str, metric: str) -> list[tuple[Length, Cell]]:
    if row.identity[0] != task:
        return []
    return sorted(
        (
            (length, cell)
            for (s, m, length), cell in row.cells.items()
            if (s, m) == (subtask, metric)
        ),
        key=lambda point: point[0],
    )


def _draw_chance(axes: Axes, rows: Sequence[Row], subtask: str) -> None:
    chances = set()
    for row in rows:
        chance = row.records[0].protocol.get("chance")
        chance = chance.get(subtask) if isinstance(chance, dict) else chance
        if isinstance(chance, (int, float)):
            chances.add(float(chance))
    for chance in sorted(chances):
        axes.axhline(chance, color=GREY, linestyle=(0, (1, 2)), linewidth=1.2, label="chance")


def _draw_legend(figure: Figure, rows: Sequence[Row], metric: str) -> None:
    """One legend for all panels, below them, that also says what the bands are."""
    legend = draw_legend(figure, last="chance")
    cells = [cell for row in rows for (_, m, _), cell in row.cells.items() if m == metric]
    legend.set_title(_band_title(cells), prop={"size": 9})
    legend.get_title().set_color(GREY)


def _band_title(cells: Sequence[Cell]) -> str:
    samples = sorted({cell.samples for cell in cells})
    counts = f"{samples[0]}" if len(samples) == 1 else f"{samples[0]} to {samples[-1]}"
    bands = []
    if any(cell.seeds == 1 and cell.low is not None for cell in cells):
        bands.append("95% Wilson interval")
    if any(cell.seeds > 1 for cell in cells):
        bands.append("standard deviation over seeds")
    band = f"band: {' or '.join(bands)}; " if bands else ""
    return f"{band}{counts} samples a point"
