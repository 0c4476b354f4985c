"""The report as one HTML file that loads nothing: tables that sort, plots, every run's config."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import quote

import matplotlib

from atlas_bench.artifacts.folder import (
    CONFIG_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RECORD_NAME,
)
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.plots import Plot
from atlas_bench.report.plots.style import AXIS, COLOURS, GREY, GRID, INK, STYLE
from atlas_bench.report.row_groups import order_of
from atlas_bench.report.table_formats import NOTHING, Table, TableEntry, short_count

TITLE = "atlas-bench report"
# The colours of a plot become the page's own, which change in dark mode.
THEMED = {
    **{colour: f"var(--c{index})" for index, colour in enumerate(COLOURS, start=1)},
    INK: "var(--ink)",
    GREY: "var(--muted)",
    AXIS: "var(--axis)",
    GRID: "var(--grid)",
}
WIDE_INCHES = 8.0  # a plot of this width or more takes the whole width of the page
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
    sections = [(each.task, _results(each, f"plot{index}-")) for index, each in enumerate(results)]
    if beside_papers:
        tables = "".join(_table(table, sortable=False) for table in beside_papers)
        sections.append(("Beside the papers", tables))
    sections.append(("Runs", _runs(records)))
    sections.append(("Configs", _configs(records, folder)))
    if unfinished:
        items = [f"{path}: {reason}" for path, reason in unfinished.items()]
        sections.append(("Without a record", f'<div class="card">{_list(items, "path")}</div>'))
    links = [f'<a href="#s{at}">{escape(name)}</a>' for at, (name, _) in enumerate(sections)]
    body = [
        f'<section aria-labelledby="s{at}"><h2 id="s{at}">{escape(name)}</h2>{content}</section>'
        for at, (name, content) in enumerate(sections)
    ]
    return Template(_template("page.html")).substitute(
        title=TITLE,
        summary=escape(_summary(records)),
        navigation=" ".join(links),
        body="\n".join(body),
        style=_template("page.css"),
        script=_template("page.js"),
    )


def _template(name: str) -> str:
    return (files("atlas_bench.report") / "template" / name).read_text(encoding="utf-8").strip()


def _summary(records: Sequence[Record]) -> str:
    models = len({record.model for record in records})
    days = sorted({record.started_at[:10] for record in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    runs = f"{len(records)} run{'' if len(records) == 1 else 's'}"
    return f"{runs} of {models} model{'' if models == 1 else 's'}, {when}"


def _list(items: Sequence[str], item_class: str = "", list_class: str = "") -> str:
    """An unordered list; empty without items."""
    item, whole = (f' class="{name}"' if name else "" for name in (item_class, list_class))
    lines = "".join(f"<li{item}>{escape(text)}</li>" for text in items)
    return f"<ul{whole}>{lines}</ul>" if lines else ""


# tables ------------------------------------------------------------------------------------


def _results(results: TaskResults, prefix: str) -> str:
    tables, others = (
        "".join(_table(_with_model_first(table)) for table in each)
        for each in (results.tables, results.other_tables)
    )
    if others:
        others = f"<details><summary>Other metrics</summary>{others}</details>"
    plots = "".join(_figure(plot, f"{prefix}{at}-") for at, plot in enumerate(results.plots))
    return f'{tables}{others}<div class="plots">{plots}</div>'


def _with_model_first(table: Table) -> Table:
    """The model in the first column, which stays in view; a single subtask goes to the title."""
    rows = [row for section in table.sections for row in section]
    subtasks = {row[0].text for row in rows}
    if len(subtasks) > 1:
        order, texts, title = (1, 0), 2, table.title
    else:
        order, texts, title = (1,), 1, f"{table.title}, {rows[0][0].text}"

    def reordered(cells: list) -> list:
        return [*(cells[at] for at in order), *cells[2:]]

    rows = [reordered(row) for row in rows]
    headings = reordered(table.headings)
    return replace(table, title=title, headings=headings, texts=texts, sections=[rows])


def _table(table: Table, *, sortable: bool = True) -> str:
    """Not sortable: rows that only make sense below each other."""
    headings = ""
    for index, heading in enumerate(table.headings):
        text = escape(heading)
        if sortable:
            text = f'<button type="button">{text}</button>'
        sort = ' aria-sort="none"' if sortable else ""
        headings += f'<th scope="col"{sort}{_text_class(index, table)}>{text}</th>'
    bodies = "".join(
        f"<tbody>{''.join(_row(row, table) for row in section)}</tbody>"
        for section in table.sections
    )
    title = escape(table.title)
    return (
        f'<div class="card"><h3>{title}</h3>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="{"sortable" if sortable else "grouped"}">'
        f"<thead><tr>{headings}</tr></thead>{bodies}</table></div>"
        f"{_list(table.notes, list_class='notes')}</div>\n"
    )


def _row(row: Sequence[TableEntry], table: Table) -> str:
    cells = [f'<th scope="row" class="text">{_content(row[0])}</th>']
    for index, entry in enumerate(row[1:], start=1):
        order = "" if entry.order is None else f' data-order="{entry.order:.6g}"'
        share = "" if entry.share is None else f' style="--share:{entry.share:.3f}"'
        cells.append(f"<td{_text_class(index, table)}{order}{share}>{_content(entry)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _text_class(index: int, table: Table) -> str:
    return ' class="text"' if index < table.texts else ""


def _content(entry: TableEntry) -> str:
    beside = f"<small>{escape(entry.beside)}</small>" if entry.beside else ""
    text = escape(entry.text).replace("_", "_<wbr>")  # long names break there on a phone
    return (f'<a href="{escape(entry.link)}">{text}</a>' if entry.link else text) + beside


# plots -------------------------------------------------------------------------------------


def _figure(plot: Plot, prefix: str) -> str:
    width = plot.figure.get_figwidth()
    wide = " wide" if width >= WIDE_INCHES else ""
    # Letters stay readable on a phone: a plot wider than the screen is moved sideways.
    size = f"min-width:{width * 3.6:.0f}rem;max-width:{width * 7:.0f}rem"
    return (
        f'<figure class="card{wide}"><figcaption>{escape(plot.title)}</figcaption>'
        f'<div class="scroll">{_svg(plot, prefix, size)}</div></figure>\n'
    )


def _svg(plot: Plot, prefix: str, size: str) -> str:
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
    return f'<svg {box} role="img" aria-label="{label}" style="{size}">{inner}'


# runs --------------------------------------------------------------------------------------


def _runs(records: Sequence[Record]) -> str:
    headings = [
        *("run", "scale", "task", "seed", "parameters", "state", "tokens trained"),
        *("training, s", "all, s"),
    ]
    rows = []
    for index, record in enumerate(records):
        counts = (record.parameters, record.state_bytes, record.train_tokens)
        rows.append(
            [
                TableEntry(record.name, link=f"#config{index}"),
                *(TableEntry(record.scale), TableEntry(record.task)),
                TableEntry(str(record.seed), order=record.seed),
                *(
                    TableEntry(NOTHING if each is None else short_count(each), order=each)
                    for each in counts
                ),
                *(
                    TableEntry(f"{seconds:,.0f}", order=seconds)
                    for seconds in (record.train_seconds, record.wall_seconds)
                ),
            ]
        )
    return _table(Table("All runs", headings, 3, [rows]))


def _configs(records: Sequence[Record], folder: Path) -> str:
    configs = ""
    for index, record in enumerate(records):
        title = f"{record.model} {record.scale} on {record.task}, seed {record.seed}"
        commit = f", commit {record.git_commit}" if record.git_commit else ""
        origin = f"started {record.started_at} on {record.device}{commit}"
        configs += (
            f'<details id="config{index}"><summary>{escape(title)}</summary>'
            f'<p class="path">{escape(origin)}</p>{_links(record, folder)}'
            f"{_list(record.notes, list_class='notes')}"
            f"<pre>{escape(json.dumps(record.config, indent=2))}</pre></details>"
        )
    return f'<div class="card">{configs}</div>'


def _links(record: Record, folder: Path) -> str:
    """Links to the existing files of the run, relative to the page's ``folder``."""
    if record.path is None:
        return ""
    run = record.path.parent
    relative = Path(os.path.relpath(run, folder)).as_posix()
    links = " &middot; ".join(
        f'<a href="{escape(quote(f"{relative}/{name}"))}">{name}</a>'
        for name in FILES
        if (run / name).is_file()
    )
    return f'<p class="path">{escape(str(run))}: {links}</p>'
