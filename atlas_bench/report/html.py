"""The report as one HTML file that loads nothing: tables that sort, plots, every run's config."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from atlas_bench.report.rows import order_of
from atlas_bench.report.table_formats import NOTHING, Entry, Sheet
from atlas_bench.report.tables import short_count

TITLE = "atlas-bench report"
# The colours of a plot as the page's own, which change in the dark.
THEMED = {
    **{colour: f"var(--c{index})" for index, colour in enumerate(COLOURS, start=1)},
    INK: "var(--ink)",
    GREY: "var(--muted)",
    AXIS: "var(--axis)",
    GRID: "var(--grid)",
}
WIDE_INCHES = 8.0  # a plot from here on takes the whole width of the page
FILES = (RECORD_NAME, CONFIG_NAME, ".hydra/config.yaml", METRICS_NAME, PREDICTIONS_NAME)


@dataclass(frozen=True)
class Part:
    """One task: its tables and plots, and ``others``, tables that are shown when asked for."""

    name: str
    sheets: list[Sheet]
    others: list[Sheet]
    plots: list[Plot]


def page(
    parts: Sequence[Part],
    compared: Sequence[Sheet],
    records: Sequence[Record],
    unfinished: Mapping[Path, str],
    folder: Path,
) -> str:
    """The HTML of a report that will lie in ``folder``, to which links to runs are relative.

    ``compared``: tables beside papers'; ``unfinished``: folders of runs without a record, and why.
    """
    records = sorted(records, key=order_of)
    sections = [(part.name, _results(part, f"plot{index}-")) for index, part in enumerate(parts)]
    if compared:
        sections.append(("Beside the papers", "".join(map(_grouped_table, compared))))
    sections.append(("Runs", _runs(records)))
    sections.append(("Configs", _configs(records, folder)))
    if unfinished:
        items = "".join(
            f'<li class="path">{escape(str(path))}: {escape(reason)}</li>'
            for path, reason in unfinished.items()
        )
        sections.append(("Without a record", f'<div class="card"><ul>{items}</ul></div>'))
    names = [(f"s{index}", name) for index, (name, _) in enumerate(sections)]
    return Template(_template("page.html")).substitute(
        title=TITLE,
        summary=escape(_summary(records)),
        navigation=" ".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in names),
        body="\n".join(
            f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(name)}</h2>{content}'
            "</section>"
            for (anchor, name), (_, content) in zip(names, sections, strict=True)
        ),
        style=_template("page.css"),
        script=_template("page.js"),
    )


def _template(name: str) -> str:
    return (files("atlas_bench.report") / "template" / name).read_text(encoding="utf-8").strip()


def _summary(records: Sequence[Record]) -> str:
    models = len({record.model for record in records})
    days = sorted({record.started_at[:10] for record in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"{_counted(len(records), 'run')} of {_counted(models, 'model')}, {when}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


# tables ------------------------------------------------------------------------------------


def _results(part: Part, prefix: str) -> str:
    tables = "".join(_sortable_table(_by_model(sheet)) for sheet in part.sheets)
    plots = "".join(_figure(plot, f"{prefix}{index}-") for index, plot in enumerate(part.plots))
    others = "".join(_sortable_table(_by_model(sheet)) for sheet in part.others)
    if others:
        others = f"<details><summary>Other metrics</summary>{others}</details>"
    return f'{tables}{others}<div class="plots">{plots}</div>'


def _by_model(sheet: Sheet) -> Sheet:
    """The model in the first column, which stays in view; no subtasks where there is but one."""
    rows = [row for section in sheet.sections for row in section]
    several = len({row[0].text for row in rows}) > 1

    def turned(cells: list) -> list:
        return [cells[1], *cells[:1], *cells[2:]] if several else cells[1:]

    title = sheet.title if several else f"{sheet.title}, {rows[0][0].text}"
    return Sheet(
        title, turned(sheet.headings), 2 if several else 1, [list(map(turned, rows))], sheet.notes
    )


def _sortable_table(sheet: Sheet) -> str:
    headings = "".join(
        f'<th scope="col" aria-sort="none"{_text_class(index, sheet)}>'
        f'<button type="button">{escape(heading)}</button></th>'
        for index, heading in enumerate(sheet.headings)
    )
    return _table(sheet, headings, "sortable")


def _grouped_table(sheet: Sheet) -> str:
    """Rows that only make sense below each other, so that nothing is sorted."""
    headings = "".join(
        f'<th scope="col"{_text_class(index, sheet)}>{escape(heading)}</th>'
        for index, heading in enumerate(sheet.headings)
    )
    return _table(sheet, headings, "grouped")


def _table(sheet: Sheet, headings: str, kind: str) -> str:
    bodies = "".join(
        f"<tbody>{''.join(_row(row, sheet) for row in section)}</tbody>"
        for section in sheet.sections
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in sheet.notes)
    title = escape(sheet.title)
    return (
        f'<div class="card"><h3>{title}</h3>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="{kind}"><thead><tr>{headings}</tr></thead>{bodies}</table></div>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</div>\n"
    )


def _row(row: Sequence[Entry], sheet: Sheet) -> str:
    cells = [f'<th scope="row" class="text">{_inner(row[0])}</th>']
    for index, entry in enumerate(row[1:], start=1):
        order = "" if entry.order is None else f' data-order="{entry.order:.6g}"'
        share = "" if entry.share is None else f' style="--share:{entry.share:.3f}"'
        cells.append(f"<td{_text_class(index, sheet)}{order}{share}>{_inner(entry)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _text_class(index: int, sheet: Sheet) -> str:
    return ' class="text"' if index < sheet.texts else ""


def _inner(entry: Entry) -> str:
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
    """The figure in the page's colours, its ids made its own, without what only a file needs."""
    # Only the page's background shows through; the figure stays as it was.
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
    words = ["run", "scale", "task"]
    numbers = ["seed", "parameters", "state", "tokens trained", "training, s", "all, s"]
    rows = []
    for index, record in enumerate(records):
        name = Entry(record.name, link=f"#config{index}")
        rows.append([name, Entry(record.scale), Entry(record.task), *_run_numbers(record)])
    return _sortable_table(Sheet("All runs", [*words, *numbers], len(words), [rows]))


def _run_numbers(record: Record) -> Iterable[Entry]:
    yield Entry(str(record.seed), order=record.seed)
    for count in (record.parameters, record.state_bytes, record.train_tokens):
        yield Entry(NOTHING) if count is None else Entry(short_count(count), order=count)
    for seconds in (record.train_seconds, record.wall_seconds):
        yield Entry(f"{seconds:,.0f}", order=seconds)


def _configs(records: Sequence[Record], folder: Path) -> str:
    found = []
    for index, record in enumerate(records):
        notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
        config = escape(json.dumps(record.config, indent=2))
        found.append(
            f'<details id="config{index}"><summary>{escape(_run_title(record))}</summary>'
            f'<p class="path">{escape(_origin(record))}</p>{_links(record, folder)}'
            + (f'<ul class="notes">{notes}</ul>' if notes else "")
            + f"<pre>{config}</pre></details>"
        )
    return f'<div class="card">{"".join(found)}</div>'


def _run_title(record: Record) -> str:
    return f"{record.model} {record.scale} on {record.task}, seed {record.seed}"


def _links(record: Record, folder: Path) -> str:
    """To the files of the run that are there, from where the page will lie."""
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


def _origin(record: Record) -> str:
    commit = f", commit {record.git_commit}" if record.git_commit else ""
    return f"started {record.started_at} on {record.device}{commit}"
