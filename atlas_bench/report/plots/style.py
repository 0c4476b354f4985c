"""What all plots share: colours, panels, axes, the legend, and how a figure is saved.

Figures are built as objects, without pyplot and its global state, so that a run in a launcher's
thread or without a display draws the same.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, NullFormatter, NullLocator

from atlas_bench.artifacts.folder import replacing
from atlas_bench.artifacts.metrics import Metric
from atlas_bench.report.row_groups import Length

# Okabe and Ito 2008, distinct with every common colour blindness; without the pale yellow.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "<", ">", "p")
LINES = ("-", "--", ":")  # the next one when all colours are in use
STYLE = matplotlib.rc_params_from_file(
    Path(__file__).with_name("style.mplstyle"), use_default_template=False
)
# No heat map contains one of these colours, because the HTML page replaces them by its own.
INK, AXIS, GRID = (STYLE[key] for key in ("text.color", "axes.edgecolor", "grid.color"))
GREY = "#727a83"
# The colours of a plot become the page's own, which change in dark mode.
THEMED = {
    **{colour: f"var(--c{index})" for index, colour in enumerate(COLOURS, start=1)},
    INK: "var(--ink)",
    GREY: "var(--muted)",
    AXIS: "var(--axis)",
    GRID: "var(--grid)",
}
DOTS_PER_INCH = 200
PANELS_ACROSS = 3
CHANCE = "chance"
PER_CENT, PLAIN = "{x:.0%}", "{x:g}"  # formats of ticks


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each of ``names`` is drawn, in every panel; no two of the first 21 look the same."""
    return {
        name: {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": LINES[index // len(COLOURS) % len(LINES)],
            "linewidth": 1.8,
            "markersize": 6,
            "markeredgecolor": "white",
            "markeredgewidth": 0.8,
            "clip_on": False,
        }
        for index, name in enumerate(dict.fromkeys(names))
    }


def panels(
    titles: Sequence[str], xlabel: str, ylabel: str = "", **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per title in rows of at most PANELS_ACROSS, labelled at its edges.

    ``options`` are those of `Figure.subplots`.
    """
    across = min(len(titles), PANELS_ACROSS)
    down = math.ceil(len(titles) / across)
    size = (5.8, 4.4) if len(titles) == 1 else (4.2 * across, 3.4 * down + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    all_axes = list(figure.subplots(down, across, squeeze=False, **options).flat)
    for axes in all_axes[len(titles) :]:
        axes.remove()
    for index, title in enumerate(titles):
        all_axes[index].set_title(title, loc="left")
        if index + across >= len(titles):  # no panel is below this one
            all_axes[index].set_xlabel(xlabel)
        if index % across == 0:
            all_axes[index].set_ylabel(ylabel)
    return figure, all_axes[: len(titles)]


def set_metric_axis(axes: Axes, metric: Metric) -> None:
    """The whole range from 0 to 100 % for a share, a logarithmic axis for a ratio."""
    if metric.in_per_cent:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PER_CENT)
        axes.set_yticks(np.linspace(0, 1, 6))
    elif metric.unit == "ratio":
        set_log_axis(axes.yaxis, PLAIN)


def set_log_axis(axis: Axis, formatter: Formatter | str) -> None:
    """Ticks for the range that was drawn, with labels inside the decades if there are few."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def set_length_axis(axes: Axes, lengths: Iterable[Length]) -> None:
    """A logarithmic axis with the names of the lengths, on which 0 is one doubling to the left.

    It is linear between 0 and the shortest length, because a logarithm has no place for 0.
    """
    lengths = sorted(lengths)
    positive = [tokens for tokens, _ in lengths if tokens > 0]
    shortest = positive[0] if positive else 1
    # With base 2, symlog makes the linear part `linscale / (1 - 1/2)` doublings wide.
    axes.set_xscale("symlog", base=2, linthresh=shortest, linscale=0.5)
    names: dict[int, str] = {}
    for tokens, name in lengths:
        close = any(abs(tokens - other) < 0.1 * tokens for other in names)
        if tokens in names or not close:  # the labels of 1000 and 1024 would overlap
            names[tokens] = name
    axes.set_xticks(list(names), list(names.values()), rotation=45 if len(names) > 8 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    margin = 2**0.25
    left = -0.25 * shortest if lengths and lengths[0][0] == 0 else shortest / margin
    axes.set_xlim(left, (positive[-1] if positive else 1) * margin)


def draw_legend(figure: Figure, title: str = "") -> None:
    """One legend for all panels, below them; the entry of `CHANCE` is the last."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if CHANCE in handles:
        handles[CHANCE] = handles.pop(CHANCE)
    inches = 0.6 + 0.09 * max(map(len, handles))  # for a line sample and the longest label
    columns = max(1, min(len(handles), int(figure.get_figwidth() / inches)))
    columns = math.ceil(len(handles) / math.ceil(len(handles) / columns))  # rows of equal length
    place = {"loc": "outside lower center", "ncols": columns}
    legend = figure.legend(list(handles.values()), list(handles), **place)
    legend.set_title(title, prop={"size": 9})
    legend.get_title().set_color(GREY)


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` to ``path`` in the format of its suffix, in one step; returns ``path``."""
    kind = path.suffix.lstrip(".")
    # Without a date the same records give the same bytes.
    metadata = {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return path


def page_svg(figure: Figure, prefix: str) -> tuple[str, str]:
    """The ``viewBox`` of ``figure`` as SVG, and the content of the element: in the page's colours,
    with ids that start with ``prefix``, without what only a file needs."""
    # The page's background shows through; the figure itself stays as it was.
    patches = [figure.patch, *(axes.patch for axes in figure.axes)]
    buffer = io.StringIO()
    for patch in patches:
        patch.set_visible(False)
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    for patch in patches:
        patch.set_visible(True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    for colour, variable in THEMED.items():
        text = text.replace(colour, variable)
    text = text.replace("stroke: #ffffff", "stroke: var(--card)")
    box = re.search(r'viewBox="([^"]*)"', text).group(1)
    return box, text[text.index(">") + 1 :].strip()
