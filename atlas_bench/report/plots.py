"""Plots of records: accuracy over length and depth, and how a run was trained.

Figures are built as objects, without pyplot and its global state, so that a run in a launcher's
thread or without a display draws the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator, PercentFormatter

from atlas_bench.report.records import DepthScore, Record, RecordError, is_share, replacing
from atlas_bench.report.rows import Cell, Length, Row, merge_runs, natural

# Okabe and Ito 2008, told apart with every common colour blindness; without the pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "<", ">", "p")
LINES = ("-", "--", ":")  # change when the colours are used up
STYLE = {
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "atlas-bench",  # the same figure gives the same file
}
GREY = "#777777"
DOTS_PER_INCH = 160
PANELS_ACROSS = 3
SMOOTHED_SHARE = 50  # a training curve's mean runs over a fiftieth of it


# accuracy over length ----------------------------------------------------------------------


def plot_accuracy(records: Iterable[Record], path: Path, *, metric: str | None = None) -> Path:
    """Draw a metric over length to ``path`` (.png or .svg), in one step; returns ``path``.

    Raises ValueError where no record has a score of ``metric``.
    """
    return _save(accuracy_figure(records, metric=metric), Path(path))


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
    panels = sorted(
        {(row.identity[0], subtask) for row in rows for subtask in row.subtasks(metric)},
        key=lambda panel: (panel[0], natural(panel[1])),
    )
    if not panels:
        raise ValueError(f"no score of {metric} to plot")
    across = min(len(panels), PANELS_ACROSS)
    down = math.ceil(len(panels) / across)
    width, height = (7.2, 4.6) if len(panels) == 1 else (4.2 * across, 3.4 * down + 0.7)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
        for index, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
            _draw_panel(axes, rows, panel, metric)
            if index + across >= len(panels):  # none below it
                axes.set_xlabel("context length (tokens)")
            if index % across == 0:
                axes.set_ylabel(metric.replace("_", " "))
        for axes in grid[len(panels) :]:
            axes.remove()
        _draw_legend(figure, rows, metric)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], panel: tuple[str, str], metric: str) -> None:
    task, subtask = panel
    lengths: set[Length] = set()
    shade = 0.13 if len(rows) <= 4 else 0.07  # many bands over each other get too dark
    for index, row in enumerate(rows):
        points = _points(row, task, subtask, metric)
        if not points:
            continue
        lengths |= {length for length, _ in points}
        tokens = [length[0] for length, _ in points]
        axes.plot(tokens, [cell.value for _, cell in points], label=row.label, **_style(index))
        low = [cell.value if cell.low is None else max(0.0, cell.low) for _, cell in points]
        high = [cell.value if cell.high is None else cell.high for _, cell in points]
        if is_share(metric):
            high = [min(1.0, value) for value in high]
        axes.fill_between(tokens, low, high, color=_style(index)["color"], alpha=shade, linewidth=0)
    _draw_chance(axes, [row for row in rows if row.identity[0] == task], subtask)
    axes.set_title(f"{task} {subtask}", loc="left")
    if is_share(metric):
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_yticks(np.linspace(0, 1, 6))
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


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLOURS) % len(LINES)],
        "linewidth": 1.8,
        "markersize": 6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
        "clip_on": False,
    }


def set_length_axis(axes: Axes, lengths: Iterable[Length]) -> None:
    """A logarithmic axis of lengths with their names, on which 0 stands one doubling to the left.

    Between 0 and the shortest length it is linear; a logarithm alone has no place for 0.
    """
    lengths = sorted(lengths)
    positive = [tokens for tokens, _ in lengths if tokens > 0]
    shortest = positive[0] if positive else 1
    # symlog of base 2 gives the linear part `linscale / (1 - 1/2)` doublings.
    axes.set_xscale("symlog", base=2, linthresh=shortest, linscale=0.5)
    names: dict[int, str] = {}
    for tokens, name in lengths:
        close = any(abs(tokens - other) < 0.1 * tokens for other in names)
        if tokens in names or not close:  # 1000 and 1024 would print over each other
            names[tokens] = name
    axes.set_xticks(list(names), list(names.values()), rotation=45 if len(names) > 8 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    margin = 2**0.25
    left = -0.25 * shortest if lengths and lengths[0][0] == 0 else shortest / margin
    axes.set_xlim(left, (positive[-1] if positive else 1) * margin)


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
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if "chance" in entries:
        entries["chance"] = entries.pop("chance")  # last
    inches = 0.6 + 0.09 * max(map(len, entries))  # of a line sample and the longest label
    columns = max(1, min(len(entries), int(figure.get_figwidth() / inches)))
    columns = math.ceil(len(entries) / math.ceil(len(entries) / columns))  # rows of equal length
    legend = figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=columns
    )
    cells = [cell for row in rows for (_, m, _), cell in row.cells.items() if m == metric]
    legend.set_title(_band_title(cells), prop={"size": 9})
    legend.get_title().set_color(GREY)


def _band_title(cells: Sequence[Cell]) -> str:
    samples = sorted({cell.samples for cell in cells})
    counts = f"{samples[0]}" if len(samples) == 1 else f"{samples[0]} to {samples[-1]}"
    bands = []
    if any(cell.seeds == 1 for cell in cells):
        bands.append("95% Wilson interval")
    if any(cell.seeds > 1 for cell in cells):
        bands.append("standard deviation over seeds")
    return f"band: {' or '.join(bands)}; {counts} samples a point"


# accuracy over length and depth -----------------------------------------------------------------


def plot_depths(record: Record, path: Path) -> Path:
    """Draw a metric over length and depth of the answer to ``path``, in one step; returns it.

    Raises ValueError where the record has no scores by depth.
    """
    return _save(depth_figure(record), Path(path))


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


# training ----------------------------------------------------------------------------------


def plot_training(metrics_path: Path, path: Path) -> Path:
    """Draw loss and answer accuracy over tokens from metrics.jsonl to ``path``, in one step.

    Lines that are no JSON (a kill may leave a half one) are passed over; a file without steps gives
    empty axes. Raises RecordError where the file cannot be read.
    """
    return _save(training_figure(read_metrics(Path(metrics_path))), Path(path))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are whole. Raises RecordError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    steps = []
    for line in lines:
        try:
            step = json.loads(line)
        except ValueError:
            continue
        if isinstance(step, dict) and isinstance(step.get("tokens"), (int, float)):
            steps.append(step)
    return steps


def training_figure(steps: Sequence[dict[str, Any]]) -> Figure:
    """Two panels over the same tokens; thin lines where streams get longer."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        loss, accuracy = figure.subplots(2, 1, sharex=True)
        tokens = np.array([step["tokens"] for step in steps], dtype=float)
        _draw_curve(loss, tokens, steps, "loss", COLOURS[0])
        _draw_curve(accuracy, tokens, steps, "answer_accuracy", COLOURS[2])
        loss.set_ylabel("loss")
        loss.set_ylim(bottom=0)
        accuracy.set_ylabel("answer accuracy")
        accuracy.set_ylim(-0.03, 1.03)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        accuracy.set_xlabel("tokens trained")
        accuracy.xaxis.set_major_formatter(EngFormatter(sep=""))
        _draw_stages(loss, accuracy, steps)
        if not steps:
            loss.text(0.5, 0.5, "no training steps", transform=loss.transAxes, ha="center")
            loss.set(xticks=[], yticks=[])
    return figure


def _draw_curve(
    axes: Axes, tokens: np.ndarray, steps: Sequence[dict[str, Any]], key: str, colour: str
) -> None:
    """Every step pale, and a running mean over it."""
    values = np.array([step.get(key, math.nan) for step in steps], dtype=float)
    finite = np.isfinite(values)
    tokens, values = tokens[finite], values[finite]
    if not len(values):
        return
    window = np.ones(max(1, len(values) // SMOOTHED_SHARE))
    # Divided by how many values the window covers, so that the ends are not pulled to 0.
    smooth = np.convolve(values, window, "same") / np.convolve(values**0, window, "same")
    axes.plot(tokens, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(tokens, smooth, color=colour, marker="o" if len(values) == 1 else "")


def _draw_stages(loss: Axes, accuracy: Axes, steps: Sequence[dict[str, Any]]) -> None:
    """Where the streams get longer, with their length."""
    room = 0.06 * steps[-1]["tokens"] if steps else 0.0  # that a label takes
    before, free_from = None, -math.inf
    for step in steps:
        length, tokens = step.get("length_tokens"), step["tokens"]
        if length is None or length == before:
            continue
        for axes in (loss, accuracy):
            axes.axvline(tokens, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)))
        if tokens >= free_from:
            label = f"streams of {length}" if before is None else f"{length}"
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            loss.annotate(label, (tokens, 1.0), xytext=(2, 1), **place, fontsize=8, color=GREY)
            free_from = tokens + room * (3 if before is None else 1)
        before = length


def _save(figure: Figure, path: Path) -> Path:
    kind = path.suffix.lower().lstrip(".")
    # No date in the file: the same records give the same bytes.
    metadata = {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return path
