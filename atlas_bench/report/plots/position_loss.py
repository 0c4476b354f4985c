"""Plots of records of language modelling: does the loss keep falling as the context grows?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import GREY, STYLE, draw_legend, line_styles, save
from atlas_bench.report.rows import Length, Row, merge_runs, natural

METRIC = "position_loss"  # its subtasks are ranges of positions, such as 256-511


def plot_position_loss(records: Iterable[Record], path: Path) -> Path:
    """Draw the loss over positions to ``path`` (.png or .svg), in one step; returns ``path``.

    Raises ValueError where no record has a loss by position.
    """
    return save(position_loss_figure(records), path)


def position_loss_figure(records: Iterable[Record]) -> Figure:
    """One panel for each length of window, one line for each model; seeds merged as in tables.

    A point is the mean loss in nats over a range of positions, each as wide as all before it; all
    points of a panel are of the same windows.
    """
    rows = [row for row in merge_runs(records) if row.subtasks(METRIC)]
    lengths = sorted({key[2] for row in rows for key in row.cells if key[1] == METRIC})
    if not lengths:
        raise ValueError(f"no score of {METRIC} to plot")
    with matplotlib.rc_context(STYLE):
        size = (max(5.8, 4.2 * len(lengths)), 4.4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
        for axes, length in zip(panels, lengths, strict=True):
            _draw_panel(axes, rows, length)
        panels[0].set_ylabel("loss (nats a token)")
        draw_legend(figure)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], length: Length) -> None:
    names: set[str] = set()
    for row in rows:
        names |= {s for s, metric, where in row.cells if (metric, where) == (METRIC, length)}
    buckets = sorted(names, key=natural)
    styles = line_styles(row.name for row in rows)
    for row in rows:
        cells = [(at, row.cells.get((name, METRIC, length))) for at, name in enumerate(buckets)]
        points = [(at, cell) for at, cell in cells if cell is not None]
        if not points:
            continue
        places, values = [at for at, _ in points], [cell.value for _, cell in points]
        axes.plot(places, values, label=row.label, **styles[row.name])
        low = [cell.value - (cell.spread or 0.0) for _, cell in points]
        high = [cell.value + (cell.spread or 0.0) for _, cell in points]
        axes.fill_between(
            places, low, high, color=styles[row.name]["color"], alpha=0.13, linewidth=0
        )
    axes.set_xticks(range(len(buckets)), buckets, rotation=45, ha="right")
    axes.set_xlabel("position in the window (tokens)")
    axes.set_title(f"windows of {length[1]}", loc="left", color=GREY)
