"""Plots of how runs were trained, from their metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.metrics import ACCURACY
from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import (
    COLOURS,
    GREY,
    PLAIN,
    STYLE,
    draw_legend,
    line_styles,
    panels,
    set_log_axis,
    set_metric_axis,
)
from atlas_bench.report.row_groups import merge_seeds

SMOOTHED_SHARE = 50  # the running mean covers a fiftieth of a training curve
MOST_POINTS = 400  # per line of a plot with many lines: more cannot be seen
LARGEST = 1e300  # a plot's axis could not end above a larger number

log = logging.getLogger(__name__)

Curve = tuple[np.ndarray, np.ndarray]  # tokens and values


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The numbers of each step in metrics.jsonl, without broken lines, which a kill may leave.

    Raises RecordError if the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    steps = []
    for line in lines:
        try:
            step = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = step if isinstance(step, dict) else {}
        numbers = {key: value for key, value in step.items() if isinstance(value, (int, float))}
        numbers = {key: value for key, value in numbers.items() if abs(value) < LARGEST}  # not NaN
        if "tokens" in numbers:
            steps.append(numbers)
    return steps


@matplotlib.rc_context(STYLE)
def training_figure(steps: Sequence[dict[str, Any]]) -> Figure:
    """Loss and answer accuracy over tokens; thin vertical lines where the stage changes length.

    Without steps the axes are empty.
    """
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    for axes, key, colour in (
        (loss, "loss", COLOURS[0]),
        (accuracy, "answer_accuracy", COLOURS[2]),
    ):
        tokens, values = _curve(steps, key)
        if len(values):
            marker = "o" if len(values) == 1 else ""
            axes.plot(tokens, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(tokens, _smooth(values), color=colour, marker=marker)
        axes.set_ylabel(key.replace("_", " "))
    loss.set_ylim(bottom=0)
    set_metric_axis(accuracy, ACCURACY)
    accuracy.set_xlabel("tokens trained")
    accuracy.xaxis.set_major_formatter(EngFormatter(sep=""))
    _draw_stages(loss, accuracy, steps)
    if not steps:
        loss.text(0.5, 0.5, "no training steps", transform=loss.transAxes, ha="center")
        loss.set(xticks=[], yticks=[])
    return figure


@matplotlib.rc_context(STYLE)
def loss_figure(records: Iterable[Record]) -> Figure | None:
    """Smoothed training loss over tokens, one line per run with a metrics.jsonl beside its record.

    Seeds share a colour. None if no run has steps, or if groups of different subtasks share a name,
    which no legend could tell apart.
    """
    groups = merge_seeds(records)
    styles = line_styles(group.name for group in groups)
    if len(styles) < len(groups):
        return None
    figure, (axes,) = panels([""], "tokens trained", "training loss, smoothed")
    for group in groups:
        look = {key: styles[group.name][key] for key in ("color", "linestyle")}
        curves = [curve for record in group.records if len((curve := _losses(record))[0])]
        for index, (tokens, values) in enumerate(curves):
            thin = slice(None, None, max(1, len(values) // MOST_POINTS))
            label = group.label if index == 0 else ""  # once in the legend
            axes.plot(tokens[thin], _smooth(values)[thin], label=label, linewidth=1.5, **look)
    if not axes.lines:
        return None
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    # Logarithmic, because late improvements are small beside the first ones.
    set_log_axis(axes.yaxis, PLAIN)
    draw_legend(figure)
    return figure


def _losses(record: Record) -> Curve:
    """The losses above 0 of one run; empty if they are gone."""
    path = None if record.path is None else RunFolder(record.path.parent).metrics
    try:
        steps = [] if path is None or not path.is_file() else read_metrics(path)
    except RecordError as error:
        log.warning("left out: %s", error)
        steps = []
    tokens, values = _curve(steps, "loss")
    return tokens[values > 0], values[values > 0]


def _curve(steps: Sequence[dict[str, Any]], key: str) -> Curve:
    """The finite values of ``key``."""
    tokens = np.array([step["tokens"] for step in steps], dtype=float)
    values = np.array([step.get(key, math.nan) for step in steps], dtype=float)
    finite = np.isfinite(values)
    return tokens[finite], values[finite]


def _smooth(values: np.ndarray) -> np.ndarray:
    window = np.ones(max(1, len(values) // SMOOTHED_SHARE))
    # Divided by the number of values in the window, so that the ends are not pulled to 0.
    return np.convolve(values, window, "same") / np.convolve(values**0, window, "same")


def _draw_stages(loss: Axes, accuracy: Axes, steps: Sequence[dict[str, Any]]) -> None:
    """Where the sequences get longer, with their length."""
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
