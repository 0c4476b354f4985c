"""Our scores beside a paper's, and in what our runs differ from the paper's.

A cell of ours is marked wherever anything is not as in the paper; so a small run never passes for a
replication. The marks come from the record and from what published/tables.csv says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from atlas_bench.report.published import (
    FIXTURE,
    NOT_APPLICABLE,
    Column,
    Measure,
    PublishedRow,
    PublishedTable,
)
from atlas_bench.report.records import Record, Score
from atlas_bench.report.rows import Cell, Row, merge_runs
from atlas_bench.report.tables import short_count

SIZE_TOLERANCE = 0.10  # papers round: "760M" is anything from 690M to 830M
TOKENS_TOLERANCE = 0.05
DIFFERS, ON_FIXTURE, STANDS_IN = "\N{NOT EQUAL TO}", "f", "s"


@dataclass(frozen=True)
class Ours:
    """One of our cells in the paper's unit, with the marks that it carries."""

    cell: Cell
    marks: str
    reasons: tuple[str, ...]  # why this cell differs, beside those of its whole row

    @property
    def stands_in(self) -> bool:
        return STANDS_IN in self.marks

    @property
    def comparable(self) -> bool:
        """Whether a difference to the paper means anything at all."""
        return not self.stands_in and ON_FIXTURE not in self.marks


@dataclass(frozen=True)
class OurRow:
    """Runs that differ in their seed, beside a table; ``differs`` says from its protocol."""

    row: Row
    cells: dict[str, Ours]  # by column
    differs: tuple[str, ...]

    @property
    def preset(self) -> str:
        return self.row.records[0].model

    @property
    def scale(self) -> str:
        return self.row.records[0].scale


@dataclass(frozen=True)
class Comparison:
    """A table with all rows of ours that have one of its scores."""

    table: PublishedTable
    ours: list[OurRow]

    @property
    def measured(self) -> bool:
        """Whether any cell is of the paper's own measure."""
        return any(not cell.stands_in for ours in self.ours for cell in ours.cells.values())

    def of(self, published: PublishedRow) -> list[OurRow]:
        return [ours for ours in self.ours if ours.preset == published.preset]


def compare(table: PublishedTable, records: Iterable[Record]) -> Comparison:
    """Seeds are merged as in all tables; runs without any score of ``table`` are left out."""
    theirs = {published.preset for published in table.rows}
    found = []
    for row in merge_runs(records):
        differs = tuple(protocol_differences(table, row.records[0]))
        cells = {
            column.name: cell
            for column in table.columns
            if (cell := _ours(column, row, bool(differs))) is not None
            # Of models that the paper has not, a stand-in would say nothing.
            and (row.records[0].model in theirs or not cell.stands_in)
        }
        if cells:
            found.append(OurRow(row, cells, differs))
    return Comparison(table, found)


# cells -------------------------------------------------------------------------------------


def _ours(column: Column, row: Row, differs: bool) -> Ours | None:
    """The column's value, or its stand-in's, over those seeds that have all of its parts."""
    marks = ""
    scored = _scored(column.parts, row)
    if not scored and column.stand_in is not None:
        scored, marks = _scored(((column.stand_in,),), row), STANDS_IN
    if not scored:
        return None
    fixture = any(
        FIXTURE in score.subtask or FIXTURE in record.task
        for record, parts in scored
        for score in _scores(parts)
    )
    reasons = _fewer_samples(column, scored)
    if fixture:
        marks = ON_FIXTURE + marks
    if differs or reasons or marks:
        marks = DIFFERS + marks
    return Ours(_cell(column, scored), marks, reasons)


Parts = list[list[list[Score]]]  # of a column: parts, their measures, the scores of each


def _scored(parts: Sequence[Sequence[Measure]], row: Row) -> list[tuple[Record, Parts]]:
    found = []
    for record in row.records:
        scores = [[measure.scores(record) for measure in part] for part in parts]
        if all(of_measure for part in scores for of_measure in part):
            found.append((record, scores))
    return found


def _scores(parts: Parts) -> list[Score]:
    return [score for part in parts for of_measure in part for score in of_measure]


def _cell(column: Column, scored: list[tuple[Record, Parts]]) -> Cell:
    """As rows.py makes them, in the paper's unit; a mean of several scores has no interval."""
    factor = 100.0 if column.in_per_cent else 1.0
    values = [
        factor
        * mean(
            mean(mean(score.value for score in of_measure) for of_measure in part) for part in parts
        )
        for _, parts in scored
    ]
    samples = min(score.samples for _, parts in scored for score in _scores(parts))
    if len(values) > 1:
        centre, spread = mean(values), stdev(values)
        return Cell(centre, centre - spread, centre + spread, spread, len(values), samples)
    low = high = None
    scores = _scores(scored[0][1])
    if len(scores) == 1 and scores[0].ci_low is not None and scores[0].ci_high is not None:
        low, high = factor * scores[0].ci_low, factor * scores[0].ci_high
    return Cell(values[0], low, high, None, 1, samples)


# what differs ------------------------------------------------------------------------------


def protocol_differences(table: PublishedTable, record: Record) -> list[str]:
    """In what the run of ``record`` is not the paper's; empty where nothing is known to differ."""
    return [
        said
        for said in (
            _size(table, record),
            _tokens(table, record),
            _name(table.tokenizer, table.tokenizer_names, _tokenizer(record), "tokenizer"),
            _name(table.data, table.data_names, _data(record), "data"),
        )
        if said
    ]


def _size(table: PublishedTable, record: Record) -> str | None:
    ours = f"{short_count(record.parameters)} parameters"
    if table.parameters is None:
        return f"{ours}, the paper's are not stated"
    if math.isclose(record.parameters, table.parameters, rel_tol=SIZE_TOLERANCE):
        return None
    return f"{ours}, not {short_count(table.parameters)}"


def _tokens(table: PublishedTable, record: Record) -> str | None:
    if not record.train_tokens:
        return "trained in another run, on how much this record does not say"
    ours = f"{short_count(record.train_tokens)} training tokens"
    if table.train_tokens is None:
        return f"{ours}, the paper's are not stated"
    if math.isclose(record.train_tokens, table.train_tokens, rel_tol=TOKENS_TOLERANCE):
        return None
    return f"{ours}, not {short_count(table.train_tokens)}"


def _name(published: str, names: Sequence[str], ours: str, what: str) -> str | None:
    if published == NOT_APPLICABLE or any(name in ours.lower() for name in names):
        return None
    return f"{what} {ours}, not {published}"


def _tokenizer(record: Record) -> str:
    return str(record.tokenizer.get("name") or "none")


def _data(record: Record) -> str:
    """Every name that the record gives to a text."""
    text: dict[str, Any] = record.config.get("text") or {}
    named = [record.protocol.get("noise"), *(text.get(key) for key in ("source", "dataset"))]
    return " ".join(dict.fromkeys(str(name) for name in named if name)) or "unknown"


def _fewer_samples(column: Column, scored: list[tuple[Record, Parts]]) -> tuple[str, ...]:
    wanted = {measure.name: measure.samples for measure in column.measures}
    for measure in column.measures:
        for record, _ in scored:
            for score in measure.scores(record):
                asked = wanted[measure.name]
                if asked is not None and score.samples < asked:
                    return (f"fewer samples, {score.samples} and not {asked}",)
    return ()


def order_kept(comparison: Comparison, column: Column, scale: str) -> tuple[int, int]:
    """Pairs of our rows of one scale that are ordered as in the paper, and all pairs that are
    ordered in both. Cells on fixtures do not count."""
    paper = {row.preset: row.values.get(column.name) for row in comparison.table.rows}
    found = [
        (paper[ours.preset], ours.cells[column.name])
        for ours in comparison.ours
        if ours.scale == scale
        and paper.get(ours.preset) is not None
        and column.name in ours.cells
        and ON_FIXTURE not in ours.cells[column.name].marks
    ]
    pairs = [
        ((one - other) * (mine.cell.value - theirs.cell.value))
        for (one, mine), (other, theirs) in combinations(found, 2)
        if mine.stands_in == theirs.stands_in
    ]
    return sum(pair > 0 for pair in pairs), sum(pair != 0 for pair in pairs)
