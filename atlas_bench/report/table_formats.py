"""A table and its forms: terminal, Markdown, LaTeX; and the CSV of plain rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

NOTHING = "\N{EN DASH}"  # where a cell has no number
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after \\ a bracket would be an argument
    "]": "{]}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{NOT EQUAL TO}": r"$\neq$",
}


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


def markdown_table(table: Table) -> str:
    """With a heading; ends in a newline."""
    numbers = len(table.headings) - table.texts
    lines = [f"## {table.title}", "", markdown_line(table.headings)]
    lines.append(markdown_line([*["---"] * table.texts, *["---:"] * numbers]))
    lines += [
        markdown_line(entry.full for entry in row) for section in table.sections for row in section
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes), ""])


def markdown_line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def latex_table(table: Table) -> str:
    """A `table` for `\\usepackage{booktabs}`, as wide as its cells; ends in a newline."""
    numbers = len(table.headings) - table.texts
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{latex_text(table.title)}}}",
        f"\\begin{{tabular}}{{{'l' * table.texts}{'r' * numbers}}}",
        r"\toprule",
        _latex_line(latex_text(heading) for heading in table.headings),
    ]
    for section in table.sections:
        lines.append(r"\midrule")
        lines += [_latex_line(_latex_entry(entry) for entry in row) for row in section]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines += ["", r"\smallskip", r"\parbox{\linewidth}{\footnotesize\raggedright"]
        lines += [f"{latex_text(note)}\\par" for note in table.notes]
        lines.append("}")
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_entry(entry: TableEntry) -> str:
    text = latex_text(entry.text)
    return f"{text} {{\\scriptsize {latex_text(entry.beside)}}}" if entry.beside else text


def latex_text(text: str) -> str:
    """``text`` so that LaTeX prints it as it is."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


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
