"""Tables of records: models down, lengths across; shares in per cent, anything else as it is.

Seeds are merged as rows.py says; where rows were measured or set up differently, numbered notes
below the table say in what they differ.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from atlas_bench.report.records import Record, Score, is_share
from atlas_bench.report.rows import (
    Cell,
    Length,
    Row,
    differing,
    flatten,
    merge_runs,
    natural,
    order_of,
    protocol_of,
)

# layout ------------------------------------------------------------------------------------


@dataclass
class Layout:
    """One table of one task and metric, before it is drawn."""

    task: str
    metric: str
    lengths: list[Length]
    sections: list[tuple[str, list[Row]]]  # subtask, its rows
    samples: int  # of most cells
    notes: list[str]

    @property
    def title(self) -> str:
        unit = " (%)" if is_share(self.metric) else ""
        return f"{self.task}, {self.metric.replace('_', ' ')}{unit}, {self.samples} samples a cell"

    @property
    def length_names(self) -> list[str]:
        """Headings; with the tokens where one name stands for two lengths."""
        names = Counter(name for _, name in self.lengths)
        return [name if names[name] == 1 else f"{name} ({tokens})" for tokens, name in self.lengths]

    def cell(self, subtask: str, row: Row, length: Length) -> Cell | None:
        return row.cells.get((subtask, self.metric, length))

    def number(self, value: float, digits: int = 1) -> str:
        """A share in per cent with ``digits`` decimals; anything else with four digits."""
        if is_share(self.metric):
            return f"{100 * value:.{digits}f}"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    def remark(self, row: Row, cell: Cell) -> str:
        """What a cell must add because it has fewer seeds or other samples than it seems."""
        parts = []
        if cell.seeds != len(row.records):
            parts.append(f"{cell.seeds} seed{'s' if cell.seeds > 1 else ''}")
        if cell.samples != self.samples:
            parts.append(f"n={cell.samples}")
        return ", ".join(parts)


def layouts(records: Iterable[Record], metric: str | None = None) -> list[Layout]:
    """One layout for each task and metric (or only ``metric``) that has scores."""
    rows = merge_runs(records)
    found = []
    for task in dict.fromkeys(row.identity[0] for row in rows):
        of_task = [row for row in rows if row.identity[0] == task]
        metrics = dict.fromkeys(name for row in of_task for _, name, _ in row.cells)
        for name in metrics if metric is None else [key for key in metrics if key == metric]:
            found.append(_layout(task, name, [row for row in of_task if row.subtasks(name)]))
    return found


def _layout(task: str, metric: str, rows: list[Row]) -> Layout:
    keys = [(row, key) for row in rows for key in row.cells if key[1] == metric]
    subtasks = sorted({key[0] for _, key in keys}, key=natural)
    cells = [row.cells[key] for row, key in keys]
    notes = [text for text in [_legend(cells)] if text]
    if differing([protocol_of(row.records[0]) for row in rows]):
        notes.append("Not measured alike, so compare with care: see the numbered notes.")
    return Layout(
        task,
        metric,
        lengths=sorted({key[2] for _, key in keys}),
        sections=[
            (subtask, [row for row in rows if subtask in row.subtasks(metric)])
            for subtask in subtasks
        ],
        samples=Counter(cell.samples for cell in cells).most_common(1)[0][0],
        notes=[*notes, *(row.note for row in rows if row.note)],
    )


def _legend(cells: Sequence[Cell]) -> str:
    parts = []
    if any(cell.seeds == 1 and cell.low is not None for cell in cells):
        parts.append("One seed: value and 95% Wilson interval over the samples.")
    if any(cell.seeds > 1 for cell in cells):
        parts.append("Several seeds: mean \N{PLUS-MINUS SIGN} standard deviation over the seeds.")
    return " ".join(parts)


# drawing -----------------------------------------------------------------------------------


def rich_tables(records: Iterable[Record], metric: str | None = None) -> list[Table]:
    """Tables for the terminal, one for each task and metric; none where nothing was scored."""
    return [_rich(layout) for layout in layouts(records, metric)]


def _rich(layout: Layout) -> Table:
    table = Table(
        title=Text(layout.title),
        title_style="bold",
        title_justify="left",
        caption=Text("\n".join(layout.notes)),
        caption_style="dim",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("subtask")
    table.add_column("model", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    for name in layout.length_names:
        table.add_column(name, justify="right", no_wrap=True)
    for subtask, rows in layout.sections:
        for index, row in enumerate(rows):
            cells = [_rich_cell(layout, subtask, row, length) for length in layout.lengths]
            label = Text(row.name)
            if len(row.records) > 1:
                label.append(f"\n{len(row.records)} seeds", style="dim")
            first = Text(subtask if index == 0 else "")
            table.add_row(first, label, short_count(row.records[0].parameters), *cells)
        table.add_section()
    return table


def _rich_cell(layout: Layout, subtask: str, row: Row, length: Length) -> Text:
    """The value, and dimmed below it how sure it is: narrow enough for 80 columns."""
    cell = layout.cell(subtask, row, length)
    if cell is None:
        return Text("\N{EN DASH}", style="dim")
    text = Text(layout.number(cell.value))
    if cell.spread is not None:
        text.append(f"\n\N{PLUS-MINUS SIGN}{layout.number(cell.spread)}", style="dim")
    elif cell.low is not None:
        low, high = layout.number(cell.low, 0), layout.number(cell.high, 0)
        text.append(f"\n{low}\N{EN DASH}{high}", style="dim")
    if remark := layout.remark(row, cell):
        text.append(f"\n{remark}", style="dim")
    return text


def markdown_tables(records: Iterable[Record], metric: str | None = None) -> str:
    """The same tables in Markdown, then the runs that they were made from."""
    records = sorted(records, key=order_of)
    parts = [_markdown(layout) for layout in layouts(records, metric)]
    return "\n".join([*parts, _markdown_runs(records)])


def _markdown(layout: Layout) -> str:
    lines = [f"## {layout.title}", ""]
    lines.append(_line(["subtask", "model", "size", *layout.length_names]))
    lines.append(_line(["---", "---", *["---:"] * (1 + len(layout.lengths))]))
    for subtask, rows in layout.sections:
        for row in rows:
            cells = [_markdown_cell(layout, subtask, row, length) for length in layout.lengths]
            lines.append(
                _line([subtask, row.label, short_count(row.records[0].parameters), *cells])
            )
    return "\n".join([*lines, "", *(f"- {note}" for note in layout.notes), ""])


def _markdown_cell(layout: Layout, subtask: str, row: Row, length: Length) -> str:
    cell = layout.cell(subtask, row, length)
    if cell is None:
        return "\N{EN DASH}"
    text = layout.number(cell.value)
    if cell.spread is not None:
        text += f" \N{PLUS-MINUS SIGN} {layout.number(cell.spread)}"
    elif cell.low is not None:
        text += f" [{layout.number(cell.low)}, {layout.number(cell.high)}]"
    remark = layout.remark(row, cell)
    return f"{text} ({remark})" if remark else text


def _markdown_runs(records: Sequence[Record]) -> str:
    lines = ["## Runs", "", _line(["run", "model", "seed", "tokens trained", "device", "started"])]
    lines.append(_line(["---", "---", "---:", "---:", "---", "---"]))
    for record in records:
        run = record.name if record.path is None else str(record.path.parent)
        model = f"{record.model} {record.scale}"
        tokens = short_count(record.train_tokens)
        lines.append(_line([run, model, record.seed, tokens, record.device, record.started_at]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def short_count(count: int) -> str:
    """1234567 -> ``1.2M``; three digits at most."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return (
                f"{count / size:.0f}{letter}"
                if count >= 100 * size
                else f"{count / size:.1f}{letter}"
            )
    return str(count)


def scores_csv(records: Iterable[Record]) -> str:
    """Every score of every run, one a line, with all fields of its record; dicts as `a.b`."""
    rows = []
    for record in sorted(records, key=order_of):
        own = asdict(record)
        del own["scores"], own["depths"]
        run = "" if record.path is None else str(record.path.parent)
        shared = flatten({"run": run, **{k: v for k, v in own.items() if k != "path"}})
        rows += [{**shared, **asdict(score)} for score in record.scores]
    # Plain fields first, in their order; then the free-form ones, which differ between runs.
    plain = ["run", *(f.name for kind in (Record, Score) for f in fields(kind))]
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = [key for key in plain if key in keys] + sorted(set(keys) - set(plain))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv_value(value) for key, value in row.items()})
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, bool)) else value
