"""A table before it is drawn, and its forms: terminal, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich import box
from rich.table import Table
from rich.text import Text

NOTHING = "\N{EN DASH}"  # where a cell has no number
# What LaTeX cannot print as it is.
LATEX = {
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
class Entry:
    """One cell: its text, and how sure that is, briefly (below it, where there is no room) or in
    full (beside it). On a page ``order`` sorts it, ``share`` from 0 to 1 shades it, and ``link`` is
    where it leads."""

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
class Sheet:
    """Rows under headings, the first ``texts`` columns of words and all others of numbers."""

    title: str
    headings: list[str]
    texts: int
    sections: list[list[list[Entry]]]  # of rows of cells; a line is drawn between sections
    notes: list[str] = field(default_factory=list)


def rich_sheet(sheet: Sheet) -> Table:
    """For the terminal; in every section what repeats in the first column is left out."""
    table = Table(
        title=Text(sheet.title),
        title_style="bold",
        title_justify="left",
        caption=Text("\n".join(sheet.notes)),
        caption_style="dim",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for index, heading in enumerate(sheet.headings):
        if index < sheet.texts:
            table.add_column(Text(heading), overflow="fold")
        else:
            table.add_column(Text(heading), justify="right", no_wrap=True)
    for section in sheet.sections:
        before = None
        for row in section:
            first = Entry("") if row[0] == before else row[0]
            table.add_row(*(_rich_entry(entry) for entry in (first, *row[1:])))
            before = row[0]
        table.add_section()
    return table


def _rich_entry(entry: Entry) -> Text:
    text = Text(entry.text, style="dim" if entry.text == NOTHING else "")
    if entry.below:
        text.append(f"\n{entry.below}", style="dim")
    return text


def markdown_sheet(sheet: Sheet, level: int = 2) -> str:
    """With a heading of ``level``; ends in a newline."""
    numbers = len(sheet.headings) - sheet.texts
    lines = [f"{'#' * level} {sheet.title}", "", markdown_line(sheet.headings)]
    lines.append(markdown_line([*["---"] * sheet.texts, *["---:"] * numbers]))
    lines += [
        markdown_line(entry.full for entry in row) for section in sheet.sections for row in section
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in sheet.notes), ""])


def markdown_line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def latex_sheet(sheet: Sheet) -> str:
    """A `table` for `\\usepackage{booktabs}`, as wide as its cells; ends in a newline."""
    numbers = len(sheet.headings) - sheet.texts
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{latex_text(sheet.title)}}}",
        f"\\begin{{tabular}}{{{'l' * sheet.texts}{'r' * numbers}}}",
        r"\toprule",
        _latex_line(latex_text(heading) for heading in sheet.headings),
    ]
    for section in sheet.sections:
        lines.append(r"\midrule")
        lines += [_latex_line(_latex_entry(entry) for entry in row) for row in section]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if sheet.notes:
        lines += ["", r"\smallskip", r"\parbox{\linewidth}{\footnotesize\raggedright"]
        lines += [f"{latex_text(note)}\\par" for note in sheet.notes]
        lines.append("}")
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_entry(entry: Entry) -> str:
    text = latex_text(entry.text)
    return f"{text} {{\\scriptsize {latex_text(entry.beside)}}}" if entry.beside else text


def latex_text(text: str) -> str:
    """``text`` so that LaTeX prints it as it is."""
    return "".join(LATEX.get(character, character) for character in text)
