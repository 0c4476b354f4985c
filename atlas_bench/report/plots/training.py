"""Plots of how runs were trained, from their metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots.style import (
    COLOURS,
    GREY,
    STYLE,
    draw_legend,
    line_styles,
    panels,
    save,
    set_log_ticks,
)
from atlas_bench.report.rows import merge_runs

SMOOTHED_SHARE = 50  # a training curve's mean runs over a fiftieth of it
MOST_POINTS = 400  # of one line among many: more cannot be seen


def plot_training(metrics_path: Path, path: Path) -> Path:
    """Draw loss and answer accuracy over tokens from metrics.jsonl to ``path``, in one step.

    Lines that are no JSON (a kill may leave a half one) are passed over; a file without steps gives
    empty axes. Raises RecordError where the file cannot be read.
    """
    return save(training_figure(read_metrics(Path(metrics_path))), path)


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
    tokens, values = _finite(tokens, steps, key)
    if not len(values):
        return
    axes.plot(tokens, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(tokens, _smooth(values), color=colour, marker="o" if len(values) == 1 else "")


def _finite(
    tokens: np.ndarray, steps: Sequence[dict[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and values of the steps that have a finite one."""
    values = np.array([step.get(key, math.nan) for step in steps], dtype=float)
    finite = np.isfinite(values)
    return tokens[finite], values[finite]


def _smooth(values: np.ndarray) -> np.ndarray:
    window = np.ones(max(1, len(values) // SMOOTHED_SHARE))
    # Divided by how many values the window covers, so that the ends are not pulled to 0.
    return np.convolve(values, window, "same") / np.convolve(values**0, window, "same")


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


# many runs ---------------------------------------------------------------------------------


def loss_figure(records: Iterable[Record]) -> Figure | None:
    """Smoothed training loss over tokens, a line for every run, seeds in one colour.

    Of all runs that have a metrics.jsonl beside their record; None where none has steps, or where
    rows of different subtasks share a name, which no legend could tell apart.
    """
    rows = merge_runs(records)
    if len({row.name for row in rows}) < len(rows):
        return None
    styles = line_styles(row.name for row in rows)
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = panels(1)
        for row in rows:
            label = row.label
            for record in row.records:
                tokens, values = _losses(record)
                if not len(values):
                    continue
                thin = slice(None, None, max(1, len(values) // MOST_POINTS))
                look = {key: styles[row.name][key] for key in ("color", "linestyle")}
                axes.plot(tokens[thin], _smooth(values)[thin], label=label, linewidth=1.5, **look)
                label = ""  # once in the legend
        if not axes.lines:
            return None
        axes.set_xlabel("tokens trained")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel("training loss, smoothed")
        axes.set_yscale("log")  # what is learnt late is small beside where all begin
        set_log_ticks(axes.yaxis, FuncFormatter(lambda value, _: f"{value:g}"))
        draw_legend(figure)
    return figure


def _losses(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and losses above 0 of the run of ``record``; empty where they are gone."""
    path = None if record.path is None else RunFolder(record.path.parent).metrics
    steps = [] if path is None or not path.is_file() else read_metrics(path)
    tokens = np.array([step["tokens"] for step in steps], dtype=float)
    tokens, values = _finite(tokens, steps, "loss")
    return tokens[values > 0], values[values > 0]
