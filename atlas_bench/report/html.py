"""The report as one HTML file that loads nothing: tables that sort, plots, every run's config."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import matplotlib
from markupsafe import Markup, escape

from atlas_bench.artifacts.folder import (
    CONFIG_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RECORD_NAME,
)
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots import Plot
from atlas_bench.report.plots.style import AXIS, COLOURS, GREY, GRID, INK, STYLE
from atlas_bench.report.render import render
from atlas_bench.report.row_groups import order_of
from atlas_bench.report.table_formats import Table, TableEntry, number_entry, short_count

# The colours of a plot become the page's own, which change in dark mode.
THEMED = {
    **{colour: f"var(--c{index})" for index, colour in enumerate(COLOURS, start=1)},
    INK: "var(--ink)",
    GREY: "var(--muted)",
    AXIS: "var(--axis)",
    GRID: "var(--grid)",
}
FILES = (RECORD_NAME, CONFIG_NAME, ".hydra/config.yaml", METRICS_NAME, PREDICTIONS_NAME)


@dataclass(frozen=True)
class TaskResults:
    """One task's tables and plots; ``other_tables`` are folded away."""

    task: str
    tables: list[Table]
    other_tables: list[Table]
    plots: list[Plot]


def page(
    results: Sequence[TaskResults],
    beside_papers: Sequence[Table],
    records: Sequence[Record],
    unfinished: Mapping[Path, str],
    folder: Path,
) -> str:
    """The HTML of a report in ``folder``, to which the links to runs are relative.

    ``unfinished``: folders of runs without a record, and why.
    """
    records = sorted(records, key=order_of)
    sections = [result.task for result in results]
    sections += ["Beside the papers"] if beside_papers else []
    sections += ["Runs", "Configs"]
    sections += ["Without a record"] if unfinished else []
    return render(
        "page.html",
        summary=_summary(records),
        sections=sections,
        results=results,
        beside_papers=beside_papers,
        records=records,
        runs=_runs(records),
        unfinished=[f"{path}: {reason}" for path, reason in unfinished.items()],
        model_first=_with_model_first,
        svg=_svg,
        links=partial(_links, folder=folder),
    )


def _summary(records: Sequence[Record]) -> str:
    models = len({record.model for record in records})
    days = sorted({record.started_at[:10] for record in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    runs = f"{len(records)} run{'' if len(records) == 1 else 's'}"
    return f"{runs} of {models} model{'' if models == 1 else 's'}, {when}"


def _with_model_first(table: Table) -> Table:
    """The model in the first column, which stays in view; a single subtask goes to the title."""
    subtasks = {row[0].text for row in table.rows}
    title = table.title if len(subtasks) > 1 else f"{table.title}, {table.rows[0][0].text}"
    first = [1, 0] if len(subtasks) > 1 else [1]
    headings, *rows = (
        [*(cells[at] for at in first), *cells[2:]] for cells in (table.headings, *table.rows)
    )
    return Table(title, headings, len(first), [rows], table.notes)


def _runs(records: Sequence[Record]) -> Table:
    headings = [
        *("run", "scale", "task", "seed", "parameters", "state", "tokens trained"),
        *("training, s", "all, s"),
    ]
    rows = [
        [
            TableEntry(record.name, link=f"#config{index}"),
            *(TableEntry(record.scale), TableEntry(record.task)),
            number_entry(record.seed, str),
            number_entry(record.parameters, short_count),
            number_entry(record.state_bytes, short_count),
            number_entry(record.train_tokens, short_count),
            number_entry(record.train_seconds, "{:,.0f}".format),
            number_entry(record.wall_seconds, "{:,.0f}".format),
        ]
        for index, record in enumerate(records)
    ]
    return Table("All runs", headings, 3, [rows])


def _links(record: Record, folder: Path) -> list[tuple[str, str]]:
    """The existing files of the run, with links relative to the page's ``folder``."""
    run = record.path.parent
    relative = Path(os.path.relpath(run, folder)).as_posix()
    return [(name, quote(f"{relative}/{name}")) for name in FILES if (run / name).is_file()]


def _svg(plot: Plot, prefix: str, size: str) -> Markup:
    """The figure in the page's colours, with unique ids, without what only a file needs."""
    # The page's background shows through; the figure itself stays as it was.
    patches = [plot.figure.patch, *(axes.patch for axes in plot.figure.axes)]
    buffer = io.StringIO()
    for patch in patches:
        patch.set_visible(False)
    with matplotlib.rc_context(STYLE):
        plot.figure.savefig(buffer, format="svg", metadata={"Date": None})
    for patch in patches:
        patch.set_visible(True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    for colour, variable in THEMED.items():
        text = text.replace(colour, variable)
    text = text.replace("stroke: #ffffff", "stroke: var(--card)")
    box = re.search(r'viewBox="[^"]*"', text).group()
    label = escape(f"{plot.title}; the numbers are in the tables")
    inner = text[text.index(">") + 1 :].strip()
    return Markup(f'<svg {box} role="img" aria-label="{label}" style="{size}">{inner}')
