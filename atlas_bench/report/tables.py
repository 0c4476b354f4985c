"""Tables of records: models down, lengths across; shares in per cent, other units as they are.

Seeds are merged as in row_groups.py. If runs were measured or set up differently, numbered notes
below the table name the differences.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from atlas_bench.artifacts.metrics import Metric
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.naming import printable
from atlas_bench.report.row_groups import (
    NOT_LEARNT,
    Estimate,
    RunGroup,
    differing,
    flatten,
    merge_seeds,
    natural,
    tuning_notes,
)
from atlas_bench.report.selection import find_grids

NOTHING = "\N{EN DASH}"  # where a cell has no number
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
WILSON_LEGEND = "One seed: value and 95% Wilson interval over the samples."
NOT_LEARNT_LEGEND = (
    f"{NOT_LEARNT.capitalize()}: no stage of the training was passed, so the scores say nothing."
)
SEEDS_LEGEND = f"Several seeds: mean {PLUS_MINUS} standard deviation over the seeds."


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
        caption=Text(printable("\n".join(table.notes))),
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


# scores ------------------------------------------------------------------------------------


def score_tables(records: Iterable[Record], metric: str | None = None) -> list[Table]:
    """One table for each task and metric with scores, or only those of ``metric``."""
    groups = merge_seeds(records)
    tables = []
    for task in dict.fromkeys(group.first.task for group in groups):
        of_task = [group for group in groups if group.first.task == task]
        for name in metric_names(record for group in of_task for record in group.records):
            if metric in (None, name):
                scored = [group for group in of_task if group.subtasks(name)]
                tables.append(_table(scored, scored[0].first.metric(name)))
    return tables


def metric_names(records: Iterable[Record]) -> list[str]:
    """Every metric with a score, in order of appearance."""
    return list(dict.fromkeys(score.metric for record in records for score in record.scores))


def main_metrics(records: Iterable[Record]) -> list[str]:
    """The first metric of each subtask of one task: the one that readers want first."""
    first: dict[str, str] = {}
    for record in records:
        for score in record.scores:
            first.setdefault(score.subtask, score.metric)
    return list(dict.fromkeys(first.values()))


def _table(groups: Sequence[RunGroup], metric: Metric) -> Table:
    """The table of one task and metric."""
    scored = {
        (at, subtask, length): estimate
        for at, group in enumerate(groups)
        for (subtask, name, length), estimate in group.estimates.items()
        if name == metric.name
    }
    lengths = sorted({length for _, _, length in scored})
    names = Counter(name for _, name in lengths)
    samples = Counter(each.samples for each in scored.values()).most_common(1)[0][0]
    sections = []
    for subtask in sorted({subtask for _, subtask, _ in scored}, key=natural):
        rows = []
        for at, group in enumerate(groups):
            if subtask in group.subtasks(metric.name):
                shown = not group.not_learnt or len(groups) == 1
                found = [scored.get((at, subtask, length)) if shown else None for length in lengths]
                model = model_entry(group.name, group)
                size = number_entry(group.first.parameters, short_count)
                entries = [_score_entry(group, each, metric, samples) for each in found]
                rows.append([TableEntry(subtask), model, size, *entries])
        sections.append(rows)
    headings = [
        *("subtask", "model", "size"),
        *(name if names[name] == 1 else f"{name} ({tokens})" for tokens, name in lengths),
    ]
    title = f"{groups[0].first.task}, {metric.title}, {samples} samples a cell"
    return Table(title, headings, 2, sections, _notes(groups, scored.values()))


def _notes(groups: Sequence[RunGroup], estimates: Collection[Estimate]) -> list[str]:
    legend = []
    if any(each.seeds == 1 and each.low is not None for each in estimates):
        legend.append(WILSON_LEGEND)
    if any(each.seeds > 1 for each in estimates):
        legend.append(SEEDS_LEGEND)
    notes = [" ".join(legend)] if legend else []
    if any(group.not_learnt for group in groups):
        notes.append(NOT_LEARNT_LEGEND)
    if differing([group.protocol for group in groups]):
        notes.append("Not measured alike, so compare with care: see the numbered notes.")
    if grids := find_grids([record for group in groups for record in group.records]):
        models = ", ".join(dict.fromkeys(grid.model for grid in grids))
        varied = ", ".join(dict.fromkeys(key for grid in grids for key in grid.varied))
        notes.append(
            f"Rows of {models} are points of a grid of {varied}. Of grids with validation scores "
            f"--best shows the best point alone; atlas-bench-sweep DIR names it."
        )
    notes += tuning_notes(groups)
    return [*notes, *(group.note for group in groups if group.note)]


# entries -----------------------------------------------------------------------------------


def model_entry(name: str, group: RunGroup) -> TableEntry:
    """A row's ``name`` with the number of its seeds."""
    seeds = group.seeds
    return TableEntry(name, below=seeds, beside=f"({seeds})" if seeds else "")


def _score_entry(
    group: RunGroup, estimate: Estimate | None, metric: Metric, samples: int
) -> TableEntry:
    """With a remark if the estimate has fewer seeds or other samples than the table says."""
    remarks = []
    if estimate and estimate.seeds != len(group.records):
        remarks.append(f"{estimate.seeds} seed{'s' if estimate.seeds > 1 else ''}")
    if estimate and estimate.samples != samples:
        remarks.append(f"n={estimate.samples}")
    return estimate_entry(
        estimate, metric.format, remark=", ".join(remarks), shaded=metric.in_per_cent
    )


def estimate_entry(
    estimate: Estimate | None,
    number: Callable[[float, int], str],
    digits: int = 1,
    *,
    marks: str = "",
    remark: str = "",
    shaded: bool = False,
) -> TableEntry:
    """A value with its spread or interval. ``number`` formats a value with so many digits."""
    if estimate is None:
        return TableEntry(NOTHING)
    below, beside = [], []
    if estimate.spread is not None:
        spread = number(estimate.spread, digits)
        below.append(f"{PLUS_MINUS}{spread}")
        beside.append(f"{PLUS_MINUS} {spread}")
    elif estimate.low is not None and estimate.high is not None:
        below.append(f"{number(estimate.low, 0)}\N{EN DASH}{number(estimate.high, 0)}")
        beside.append(f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]")
    if remark:
        below.append(remark)
        beside.append(f"({remark})")
    return TableEntry(
        f"{number(estimate.value, digits)}{marks}",
        below="\n".join(below),
        beside=" ".join(beside),
        order=estimate.value,
        share=estimate.value if shaded else None,
    )


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


# files -------------------------------------------------------------------------------------


def scores_csv(records: Iterable[Record]) -> str:
    """Every score of every run, one per line, with all fields of its record; dicts as `a.b`."""
    rows = []
    for record in records:
        facts = asdict(record)
        for name in ("scores", "depths", "metrics", "sessions", "stages", "format", "path"):
            del facts[name]
        run = {"run": "" if record.path is None else str(record.path.parent)}
        run |= {} if record.stages is None else {"learnt_at": record.learnt_at}
        for score in record.scores:
            metric = record.metric(score.metric)
            unit = {"unit": metric.unit, "higher_is_better": metric.higher_is_better}
            rows.append(run | flatten(facts) | asdict(score) | unit)
    # The fields of every record first, in their order, then those that differ between runs.
    plain = ["run", *(f.name for kind in (Record, Score) for f in fields(kind))]
    plain += ["unit", "higher_is_better"]
    keys = {key for row in rows for key in row}
    columns = [key for key in plain if key in keys] + sorted(keys - set(plain))
    return csv_text(columns, rows)


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
