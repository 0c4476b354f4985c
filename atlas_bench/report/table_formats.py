"""A table, its form for the terminal, and the CSV of plain rows; templates make other forms."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

NOTHING = "\N{EN DASH}"  # where a cell has no number


@dataclass(frozen=True)
class TableEntry:
    """The content of one cell. The uncertainty stands ``below`` the text in brief, where there is
    little room, or in full ``beside`` it. On the page ``order`` sorts the entry, ``share`` (0 to 1)
    shades it and ``link`` is its target."""

    text: str
    below: str = ""
    beside: str = ""
    order: float | None = None
    share: float | None = None
    link: str = ""

    @property
    def full(self) -> str:
        return f"{self.text} {self.beside}" if self.beside else self.text


@dataclass
class Table:
    """Rows under headings; the first ``texts`` columns hold words, all others numbers."""

    title: str
    headings: list[str]
    texts: int
    sections: list[list[list[TableEntry]]]  # sections of rows; a line is drawn between sections
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[list[TableEntry]]:
        return [row for section in self.sections for row in section]


def rich_table(table: Table) -> RichTable:
    """For the terminal; an entry of the first column is not repeated within a section."""
    drawn = RichTable(
        title=Text(table.title),
        title_style="bold",
        title_justify="left",
        caption=Text("\n".join(table.notes)),
        caption_style="dim",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, heading in enumerate(table.headings):
        if index < table.texts:
            drawn.add_column(Text(heading), overflow="fold")
        else:
            drawn.add_column(Text(heading), justify="right", no_wrap=True)
    for section in table.sections:
        before = None
        for row in section:
            first = TableEntry("") if row[0] == before else row[0]
            drawn.add_row(*(_rich_entry(entry) for entry in (first, *row[1:])))
            before = row[0]
        drawn.add_section()
    return drawn


def _rich_entry(entry: TableEntry) -> Text:
    text = Text(entry.text, style="dim" if entry.text == NOTHING else "")
    if entry.below:
        text.append(f"\n{entry.below}", style="dim")
    return text


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file; missing values are empty, lists and truth values are JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(value) if isinstance(value, (list, bool)) else value
                for key, value in row.items()
            }
        )
    return text.getvalue()


def short_count(count: int) -> str:
    """1234567 -> ``1.2M``; three digits at most."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            digits = 0 if count >= 100 * size else 1
            return f"{count / size:.{digits}f}{letter}"
    return str(count)


def number_entry(value: float | None, write: Callable[[float], str]) -> TableEntry:
    """``value`` as ``write`` writes it, with a typographic minus."""
    if value is None:
        return TableEntry(NOTHING)
    return TableEntry(write(value).replace("-", "\N{MINUS SIGN}"), order=value)
