"""Our scores beside a paper's, and in what our runs differ from the paper's.

A cell of ours is marked wherever anything is not as in the paper; so a small run never passes for a
replication. The marks come from the record and from what published/tables.csv says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report.published import (
    FIXTURE,
    NOT_APPLICABLE,
    Column,
    Measure,
    PublishedRow,
    PublishedTable,
)
from atlas_bench.report.row_groups import Pool, pool_runs, tell_apart
from atlas_bench.report.rows import Cell
from atlas_bench.report.selection import describe_grids, find_grids, outside
from atlas_bench.report.tables import short_count

DIFFERS, ON_FIXTURE, BASELINE, STANDS_IN = "\N{NOT EQUAL TO}", "f", "b", "s"


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
    """Runs that fill one row together; ``differs`` says in what they are not the paper's."""

    pool: Pool
    cells: dict[str, Ours]  # by column
    differs: tuple[str, ...]

    @property
    def preset(self) -> str:
        return self.pool.model

    @property
    def scale(self) -> str:
        return self.pool.scale

    @property
    def seeds(self) -> int:
        """Most of any cell."""
        return max(ours.cell.seeds for ours in self.cells.values())


@dataclass(frozen=True)
class Comparison:
    """A table with all rows of ours that have one of its scores."""

    table: PublishedTable
    ours: list[OurRow]
    choices: list[str]  # what was chosen from grids of training settings, or why it was not

    @property
    def measured(self) -> bool:
        """Whether any cell is of the paper's own measure."""
        return any(not cell.stands_in for ours in self.ours for cell in ours.cells.values())

    def of(self, published: PublishedRow) -> list[OurRow]:
        return [ours for ours in self.ours if ours.preset == published.preset]


def compare(table: PublishedTable, records: Iterable[Record]) -> Comparison:
    """All runs that have something of ``table``, of a grid those of its best point, in rows."""
    theirs = {published.preset for published in table.rows}
    scored = [record for record in records if _has_score(table, record)]
    grids, found = find_grids(scored), []
    ranked = [record for record in scored if record.model in theirs]
    lengths = {column.name: _shared_lengths(column.stand_in, ranked) for column in table.columns}
    chosen = [record for grid in grids for record in grid.marked]
    for pool in pool_runs([*outside(scored, grids), *chosen]):
        differs = tuple(protocol_differences(table, pool.records))
        cells = {
            column.name: cell
            for column in table.columns
            if (cell := _ours(column, pool, bool(differs), lengths[column.name])) is not None
            # Of models that the paper has not, a stand-in would say nothing.
            and (pool.model in theirs or not cell.stands_in)
        }
        if cells:
            found.append(OurRow(pool, cells, differs))
    tell_apart([ours.pool for ours in found])
    shown = {(ours.preset, ours.scale) for ours in found}
    return Comparison(table, found, describe_grids(each for each in grids if each.of in shown))


def _has_score(table: PublishedTable, record: Record) -> bool:
    return any(
        measure.scores(record)
        for column in table.columns
        for measure in (*column.measures, *([column.stand_in] if column.stand_in else []))
    )


# cells -------------------------------------------------------------------------------------

Found = list[list[tuple[Measure, list[Score]]]]  # parts of a column, measures, scores of each


def _ours(column: Column, pool: Pool, differs: bool, lengths: list[str]) -> Ours | None:
    """The column's value over those seeds that have all of its parts; else that of the baselines of
    subtasks whose changes are not all there, else its stand-in's, a mean over ``lengths``."""
    marks = ""
    seeds = _found(column.parts, pool)
    if not seeds:
        baselines = [[measure.baseline for measure in part] for part in column.parts]
        seeds, marks = _found(baselines, pool), BASELINE
    if not seeds and column.stand_in is not None:
        seeds, marks = _found(((column.stand_in,),), pool, lengths), STANDS_IN
    if not seeds:
        return None
    measured = [each for found in seeds for part in found for each in part]
    if any(FIXTURE in score.subtask for _, scores in measured for score in scores):
        marks = ON_FIXTURE + marks
    reasons = tuple(dict.fromkeys(said for each in measured for said in _less(*each)))
    if STANDS_IN in marks and lengths:
        reasons += (f"{column.stand_in.tasks[0]} over {', '.join(lengths)}",)
    if differs or reasons or marks:
        marks = DIFFERS + marks
    return Ours(_cell(column, seeds), marks, reasons)


def _shared_lengths(stand_in: Measure | None, records: Iterable[Record]) -> list[str]:
    """The lengths that all runs with the stand-in have: means over others do not compare."""
    found = [] if stand_in is None else [stand_in.scores(record) for record in records]
    names = [[score.length_name for score in scores] for scores in found if scores]
    return [name for name in names[0] if all(name in each for each in names)] if names else []


def _found(
    parts: Sequence[Sequence[Measure]], pool: Pool, lengths: Sequence[str] | None = None
) -> list[Found]:
    """For each seed that has every measure, at ``lengths`` alone where they are given."""
    seeds = []
    for records in pool.by_seed.values():
        found = [[(each, _scores(each, records, lengths)) for each in part] for part in parts]
        if all(each.value(scores) is not None for part in found for each, scores in part):
            seeds.append(found)
    return seeds


def _scores(
    measure: Measure, records: Sequence[Record], lengths: Sequence[str] | None
) -> list[Score]:
    found = [score for record in records for score in measure.scores(record)]
    return [score for score in found if lengths is None or score.length_name in lengths]


def _cell(column: Column, seeds: Sequence[Found]) -> Cell:
    """As rows.py makes them, in the paper's unit; a mean of several scores has no interval."""
    factor = 100.0 if column.in_per_cent else 1.0
    values = [
        factor * mean(mean(measure.value(scores) for measure, scores in part) for part in found)
        for found in seeds
    ]
    scores = [score for found in seeds for part in found for _, each in part for score in each]
    samples = min(score.samples for score in scores)
    if len(values) > 1:
        centre, spread = mean(values), stdev(values)
        return Cell(centre, centre - spread, centre + spread, spread, len(values), samples)
    low, high = (scores[0].ci_low, scores[0].ci_high) if len(scores) == 1 else (None, None)
    if low is None or high is None:
        return Cell(values[0], None, None, None, 1, samples)
    return Cell(values[0], factor * low, factor * high, None, 1, samples)


def _less(measure: Measure, scores: Sequence[Score]) -> Iterator[str]:
    """What a protocol asks and was not done."""
    samples = min(score.samples for score in scores)
    if measure.samples is not None and samples < measure.samples:
        yield f"fewer samples, {samples} and not {measure.samples}"


# what differs ------------------------------------------------------------------------------


def protocol_differences(table: PublishedTable, records: Sequence[Record]) -> list[str]:
    """In what runs are not the paper's; empty where nothing is known to differ."""
    if all(record.train_tokens for record in records):
        counts = [record.train_tokens for record in records]
        tokens = _count(counts, table.train_tokens, "training tokens", 0.05)
    else:
        tokens = "trained in another run, on how many tokens this record does not say"
    found = [
        _count([record.parameters for record in records], table.parameters, "parameters", 0.1),
        tokens,
        *(_name(table.tokenizer, table.tokenizer_names, _tokenizer(each)) for each in records),
        *(_name(table.data, table.data_names, _data(each)) for each in records),
    ]
    return list(dict.fromkeys(said for said in found if said))


def _count(ours: Sequence[int], published: int | None, what: str, tolerance: float) -> str | None:
    """``tolerance``: papers round, "760M" is anything from 690M to 830M."""
    least, most = short_count(min(ours)), short_count(max(ours))
    named = f"{most if least == most else f'{least} to {most}'} {what}"
    if published is None:
        return f"{named}, the paper does not say how many"
    if all(math.isclose(count, published, rel_tol=tolerance) for count in ours):
        return None
    return f"{named}, not {short_count(published)}"


def _name(published: str, names: Sequence[str], ours: str) -> str | None:
    if published == NOT_APPLICABLE or any(name in ours.lower() for name in names):
        return None
    return f"{ours}, not {published}"


def _tokenizer(record: Record) -> str:
    return f"tokenizer {record.tokenizer.get('name')}"


def _data(record: Record) -> str:
    """Every name that the record gives to a text that the model was trained on."""
    trained_on: dict[str, Any] | None = record.config.get("trained_on")
    text: dict[str, Any] = (trained_on or record.config).get("text") or {}
    noise = None if trained_on else record.protocol.get("noise")  # an evaluation's is its own
    named = [noise, *(text.get(key) for key in ("source", "dataset"))]
    return f"data {' '.join(dict.fromkeys(str(name) for name in named if name)) or 'unknown'}"


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
