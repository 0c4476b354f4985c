"""Plots of where in a context the answer lay: a heat map of accuracy over length and depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from atlas_bench.artifacts.schema import DepthScore, Record
from atlas_bench.report.plots.style import PANELS_ACROSS, STYLE, save
from atlas_bench.report.rows import Length, Row


def plot_depths(record: Record, path: Path) -> Path:
    """Draw a metric over length and depth of the answer to ``path``, in one step; returns it.

    Raises ValueError where the record has no scores by depth.
    """
    return save(depth_figure(record), path)


def depth_figure(record: Record) -> Figure:
    """One heat map for each subtask, of the first metric: lengths across, depths down.

    A cell shows its value in per cent; where no answer lay there is no cell.
    """
    if not record.depths:
        raise ValueError(f"{record.name} has no scores by depth to plot")
    metric = record.depths[0].metric
    scores = [score for score in record.depths if score.metric == metric]
    subtasks = list(dict.fromkeys(score.subtask for score in scores))
    lengths = sorted({(score.length_tokens, score.length_name) for score in scores})
    across = min(len(subtasks), PANELS_ACROSS)
    down = math.ceil(len(subtasks) / across)
    width = 1.6 + across * (1.2 + 0.55 * len(lengths))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(max(width, 4.5), 3.4 * down + 0.6), layout="constrained")
        grid = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
        for index, (axes, subtask) in enumerate(zip(grid, subtasks, strict=False)):
            mesh = _draw_depths(axes, [s for s in scores if s.subtask == subtask], lengths)
            axes.set_title(subtask, loc="left")
            if index + across >= len(subtasks):  # none below it
                axes.set_xlabel("context length")
            if index % across == 0:
                axes.set_ylabel("depth of the answer")
        for axes in grid[len(subtasks) :]:
            axes.remove()
        bar = figure.colorbar(mesh, ax=figure.axes, label=metric.replace("_", " "), aspect=30)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.suptitle(f"{record.model} {record.scale}, {record.task}", fontsize=12)
    return figure


def _draw_depths(axes: Axes, scores: Sequence[DepthScore], lengths: Sequence[Length]) -> QuadMesh:
    """Rectangles from ``depth_low`` to ``depth_high``; the beginning of the context on top."""
    bounds = sorted({bound for s in scores for bound in (s.depth_low, s.depth_high)} | {0.0, 1.0})
    values = np.full((len(bounds) - 1, len(lengths)), math.nan)
    for score in scores:
        column = lengths.index((score.length_tokens, score.length_name))
        row = bounds.index(score.depth_low)
        values[row, column] = score.value
        middle = (score.depth_low + score.depth_high) / 2
        colour = "white" if score.value < 0.5 else "black"
        label = f"{100 * score.value:.0f}"
        axes.text(column, middle, label, ha="center", va="center", fontsize=8, color=colour)
    edges = np.arange(len(lengths) + 1) - 0.5
    mesh = axes.pcolormesh(edges, bounds, values, vmin=0, vmax=1, cmap="cividis")
    axes.set_xticks(range(len(lengths)), [name for _, name in lengths])
    axes.set_ylim(1, 0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return mesh


def merged_depths(row: Row) -> Record:
    """The first record of ``row`` with the mean of all seeds' scores by depth."""
    found: dict[tuple[object, ...], list[DepthScore]] = {}
    for record in row.records:
        for score in record.depths:
            key = (score.subtask, score.length_tokens, score.metric, score.depth_low)
            found.setdefault(key, []).append(score)
    means = [
        replace(
            scores[0],
            value=mean(score.value for score in scores),
            samples=sum(score.samples for score in scores),
        )
        for scores in found.values()
    ]
    return replace(row.records[0], depths=means)
