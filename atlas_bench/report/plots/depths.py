"""A heat map of a metric over context length and depth of the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import PANELS_ACROSS, PER_CENT, STYLE, panels
from atlas_bench.report.row_groups import Length

Place = tuple[Length, float, float]  # and the bounds of the depth, from 0 to 1


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
