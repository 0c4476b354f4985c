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

from rich.table import Table

from atlas_bench.artifacts.metrics import Metric
from atlas_bench.artifacts.schema import Record, Score
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
from atlas_bench.report.selection import find_grids
from atlas_bench.report.table_formats import (
    NOTHING,
    Entry,
    Sheet,
    markdown_line,
    rich_sheet,
)

# layout ------------------------------------------------------------------------------------


@dataclass
class Layout:
    """One table of one task and metric, before it is drawn."""

    task: str
    metric: Metric
    lengths: list[Length]
    sections: list[tuple[str, list[Row]]]  # subtask, its rows
    samples: int  # of most cells
    notes: list[str]

    @property
    def title(self) -> str:
        return f"{self.task}, {self.metric.title}, {self.samples} samples a cell"

    @property
    def length_names(self) -> list[str]:
        """Headings; with the tokens where one name stands for two lengths."""
        names = Counter(name for _, name in self.lengths)
        return [name if names[name] == 1 else f"{name} ({tokens})" for tokens, name in self.lengths]

    def cell(self, subtask: str, row: Row, length: Length) -> Cell | None:
        return row.cells.get((subtask, self.metric.name, length))

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


def metrics_of(records: Iterable[Record]) -> list[str]:
    """Every metric that was scored, in order of appearance."""
    return list(dict.fromkeys(score.metric for record in records for score in record.scores))


def main_metrics(records: Iterable[Record]) -> list[str]:
    """The first metric of each subtask of one task's records: what is looked at first."""
    found: dict[str, str] = {}
    for record in records:
        for score in record.scores:
            found.setdefault(score.subtask, score.metric)
    return list(dict.fromkeys(found.values()))


def _layout(task: str, metric: str, rows: list[Row]) -> Layout:
    keys = [(row, key) for row in rows for key in row.cells if key[1] == metric]
    subtasks = sorted({key[0] for _, key in keys}, key=natural)
    cells = [row.cells[key] for row, key in keys]
    notes = [text for text in [_legend(cells)] if text]
    if differing([protocol_of(row.records[0]) for row in rows]):
        notes.append("Not measured alike, so compare with care: see the numbered notes.")
    notes += _grid_note([record for row in rows for record in row.records])
    return Layout(
        task,
        rows[0].records[0].metric(metric),
        lengths=sorted({key[2] for _, key in keys}),
        sections=[
            (subtask, [row for row in rows if subtask in row.subtasks(metric)])
            for subtask in subtasks
        ],
        samples=Counter(cell.samples for cell in cells).most_common(1)[0][0],
        notes=[*notes, *(row.note for row in rows if row.note)],
    )


def _grid_note(records: Sequence[Record]) -> list[str]:
    """That rows are points of a grid: a table of everything chooses none by itself."""
    grids = find_grids(records)
    if not grids:
        return []
    names = ", ".join(dict.fromkeys(" ".join(grid.of) for grid in grids))
    varied = ", ".join(dict.fromkeys(key for grid in grids for key in grid.varied))
    return [
        f"Rows of {names} are points of a grid of {varied}. Of grids with validation scores --best "
        f"shows the best point alone; atlas-bench-sweep DIR names it."
    ]


def _legend(cells: Sequence[Cell]) -> str:
    parts = []
    if any(cell.seeds == 1 and cell.low is not None for cell in cells):
        parts.append("One seed: value and 95% Wilson interval over the samples.")
    if any(cell.seeds > 1 for cell in cells):
        parts.append("Several seeds: mean \N{PLUS-MINUS SIGN} standard deviation over the seeds.")
    return " ".join(parts)


# drawing -----------------------------------------------------------------------------------


def sheets(records: Iterable[Record], metric: str | None = None) -> list[Sheet]:
    """One for each task and metric, ready to be drawn; none where nothing was scored."""
    return [_sheet(layout) for layout in layouts(records, metric)]


def _sheet(layout: Layout) -> Sheet:
    sections = []
    for subtask, rows in layout.sections:
        section = []
        for row in rows:
            parameters = row.records[0].parameters
            section.append(
                [
                    Entry(subtask),
                    _model_entry(row),
                    Entry(short_count(parameters), order=parameters),
                    *(_entry(layout, subtask, row, length) for length in layout.lengths),
                ]
            )
        sections.append(section)
    headings = ["subtask", "model", "size", *layout.length_names]
    return Sheet(layout.title, headings, 2, sections, layout.notes)


def _model_entry(row: Row) -> Entry:
    """A row's name and how many seeds it stands for."""
    seeds = len(row.records)
    if seeds == 1:
        return Entry(row.name)
    return Entry(row.name, below=f"{seeds} seeds", beside=f"({seeds} seeds)")


def _entry(layout: Layout, subtask: str, row: Row, length: Length) -> Entry:
    """The value and how sure it is: below it in a few characters, for 80 columns."""
    cell = layout.cell(subtask, row, length)
    if cell is None:
        return Entry(NOTHING)
    below, beside = [], []
    if cell.spread is not None:
        spread = layout.metric.format(cell.spread)
        below.append(f"\N{PLUS-MINUS SIGN}{spread}")
        beside.append(f"\N{PLUS-MINUS SIGN} {spread}")
    elif cell.low is not None:
        low, high = layout.metric.format(cell.low, 0), layout.metric.format(cell.high, 0)
        below.append(f"{low}\N{EN DASH}{high}")
        beside.append(f"[{layout.metric.format(cell.low)}, {layout.metric.format(cell.high)}]")
    if remark := layout.remark(row, cell):
        below.append(remark)
        beside.append(f"({remark})")
    return Entry(
        layout.metric.format(cell.value),
        below="\n".join(below),
        beside=" ".join(beside),
        order=cell.value,
        share=cell.value if layout.metric.is_share else None,
    )


def rich_tables(records: Iterable[Record], metric: str | None = None) -> list[Table]:
    """Tables for the terminal, one for each task and metric; none where nothing was scored."""
    return [rich_sheet(sheet) for sheet in sheets(records, metric)]


def markdown_runs(records: Iterable[Record]) -> str:
    """The runs that tables were made from."""
    lines = [
        "## Runs",
        "",
        markdown_line(["run", "model", "seed", "tokens trained", "device", "started"]),
    ]
    lines.append(markdown_line(["---", "---", "---:", "---:", "---", "---"]))
    for record in sorted(records, key=order_of):
        run = record.name if record.path is None else str(record.path.parent)
        model = f"{record.model} {record.scale}"
        tokens = short_count(record.train_tokens)
        lines.append(
            markdown_line([run, model, record.seed, tokens, record.device, record.started_at])
        )
    return "\n".join(lines) + "\n"


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
        del own["scores"], own["depths"], own["metrics"], own["format"]
        run = "" if record.path is None else str(record.path.parent)
        shared = flatten({"run": run, **{k: v for k, v in own.items() if k != "path"}})
        for score in record.scores:
            metric = record.metric(score.metric)
            unit = {"unit": metric.unit, "higher_is_better": metric.higher_is_better}
            rows.append({**shared, **asdict(score), **unit})
    # Plain fields first, in their order; then the free-form ones, which differ between runs.
    plain = ["run", *(f.name for kind in (Record, Score) for f in fields(kind))]
    plain += ["unit", "higher_is_better"]
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
