"""Our scores beside a paper's, and how our runs differ from the paper's.

A score of ours is marked wherever something is not as in the paper, so that a small run never
passes for a replication. The marks come from the record and from published/tables.csv.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import Any

from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report.published import (
    FIXTURE,
    NOT_APPLICABLE,
    Column,
    Measure,
    PublishedTable,
    Weights,
)
from atlas_bench.report.row_groups import (
    Estimate,
    RunGroup,
    estimate,
    merge_subtasks,
    number_twins,
)
from atlas_bench.report.selection import describe_grids, find_grids, without_grids
from atlas_bench.report.tables import short_count

DIFFERS, ON_FIXTURE, BASELINE, STANDS_IN = "\N{NOT EQUAL TO}", "f", "b", "s"
PARAMETERS_TOLERANCE = 0.1  # papers round: "760M" is anything from 690M to 830M
TOKENS_TOLERANCE = 0.05


@dataclass(frozen=True)
class OurScore:
    """One of our numbers in the paper's unit, the paper's own if it has one, and our marks."""

    estimate: Estimate
    published: float | None
    marks: str
    reasons: tuple[str, ...]  # why this score differs, besides the reasons of its whole row

    @property
    def stands_in(self) -> bool:
        return STANDS_IN in self.marks

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's; None if it would mean nothing."""
        if self.published is None or self.stands_in or ON_FIXTURE in self.marks:
            return None
        return self.estimate.value - self.published


@dataclass(frozen=True)
class OurRow:
    """Runs that fill one row together; ``differs`` says how they differ from the paper's."""

    group: RunGroup
    scores: dict[str, OurScore]  # by column
    differs: tuple[str, ...]

    @property
    def preset(self) -> str:
        return self.group.first.model


@dataclass(frozen=True)
class Comparison:
    """A paper's table with all rows of ours that have one of its scores."""

    table: PublishedTable
    rows: list[OurRow]
    grid_notes: list[str]  # what was chosen from grids of training settings, or why nothing was

    @property
    def scores(self) -> list[OurScore]:
        return [score for row in self.rows for score in row.scores.values()]

    @property
    def measured(self) -> bool:
        """Whether any score is of the paper's own measure."""
        return any(not score.stands_in for score in self.scores)


def compare(table: PublishedTable, records: Iterable[Record]) -> Comparison:
    """All runs with a score of ``table``, in rows; of a grid only the runs with its best settings.

    Stand-ins of models that the paper does not have would say nothing and are left out.
    """
    measures = [each for column in table.columns for each in (*column.weights, *column.stand_in)]
    scored = [record for record in records if any(each.scores(record) for each in measures)]
    grids, rows = find_grids(scored), []
    printed = {row.preset: row.values for row in table.rows}
    in_paper = [record for record in scored if record.model in printed]
    lengths = {column.name: _shared_lengths(column.stand_in, in_paper) for column in table.columns}
    chosen = [record for grid in grids for record in grid.chosen_records()]
    for group in merge_subtasks([*without_grids(scored, grids), *chosen]):
        differs = tuple(protocol_differences(table, group.records))
        published = printed.get(group.first.model, {})
        scores = {
            each.name: score
            for each in table.columns
            if (score := _our_score(each, group, published, lengths[each.name], differs))
            and (group.first.model in printed or not score.stands_in)
        }
        if scores:
            rows.append(OurRow(group, scores, differs))
    number_twins([row.group for row in rows])
    shown = {f"{row.preset} {row.group.first.scale}" for row in rows}
    return Comparison(table, rows, describe_grids(grid for grid in grids if grid.model in shown))


# scores ------------------------------------------------------------------------------------


def _our_score(
    column: Column,
    group: RunGroup,
    published: Mapping[str, float],
    lengths: Sequence[str],
    differs: Sequence[str],
) -> OurScore | None:
    """The column's value over the seeds that have all of its measures; if none has, that of MAD's
    baselines alone; if none has these, that of the stand-in, a mean over ``lengths``."""
    for weights, marks in (
        (column.weights, ""),
        (column.baselines, BASELINE),
        (column.stand_in, STANDS_IN),
    ):
        seeds = _complete_seeds(weights, group, lengths if marks == STANDS_IN else None)
        if seeds:
            break
    else:
        return None
    scores = [score for seed in seeds for same in seed.values() for score in same]
    if any(FIXTURE in score.subtask for score in scores):
        marks = ON_FIXTURE + marks
    reasons = [
        f"fewer samples, {samples} and not {measure.samples}"
        for seed in seeds
        for measure, same in seed.items()
        if (samples := min(score.samples for score in same)) < measure.samples
    ]
    if STANDS_IN in marks:
        reasons.append(f"{next(iter(weights)).tasks[0]} over {', '.join(lengths)}")
    if differs or reasons or marks:
        marks = DIFFERS + marks
    scale = 100.0 if column.in_per_cent else 1.0
    values = [
        scale * sum(weights[each] * mean(score.value for score in seed[each]) for each in weights)
        for seed in seeds
    ]
    bounds = (scores[0].ci_low, scores[0].ci_high) if len(scores) == 1 else ()
    interval = [scale * bound for bound in bounds if bound is not None]
    samples = min(score.samples for score in scores)
    ours = estimate(values, samples, *interval)
    return OurScore(ours, published.get(column.name), marks, tuple(dict.fromkeys(reasons)))


def _complete_seeds(
    weights: Weights, group: RunGroup, lengths: Sequence[str] | None
) -> list[dict[Measure, list[Score]]]:
    """The scores by measure of each seed that has every measure; only those at ``lengths``, unless
    it is None."""
    seeds = []
    for seed in dict.fromkeys(record.seed for record in group.records):
        scores = {
            measure: [
                score
                for record in group.records
                if record.seed == seed
                for score in measure.scores(record)
                if lengths is None or score.length_name in lengths
            ]
            for measure in weights
        }
        if scores and all(scores.values()):
            seeds.append(scores)
    return seeds


def _shared_lengths(stand_in: Weights, records: Iterable[Record]) -> list[str]:
    """The lengths that all runs with the stand-in have; means over others cannot be compared."""
    scored = [measure.scores(record) for measure in stand_in for record in records]
    names = [[score.length_name for score in scores] for scores in scored if scores]
    return [name for name in names[0] if all(name in each for each in names)] if names else []


def order_kept(comparison: Comparison, column: Column, scale: str) -> tuple[int, int]:
    """How many pairs of our rows of one scale have the paper's order, and how many have an order in
    both. Scores on fixtures do not count."""
    ranked = [
        score
        for row in comparison.rows
        for name, score in row.scores.items()
        if (row.group.first.scale, name) == (scale, column.name)
        and not row.group.not_learnt
        and score.published is not None
        and ON_FIXTURE not in score.marks
    ]
    products = [
        (one.published - other.published) * (one.estimate.value - other.estimate.value)
        for one, other in combinations(ranked, 2)
        if one.stands_in == other.stands_in
    ]
    return sum(product > 0 for product in products), sum(product != 0 for product in products)


# differences -------------------------------------------------------------------------------


def protocol_differences(table: PublishedTable, records: Sequence[Record]) -> list[str]:
    """How runs differ from the paper's; empty if no difference is known."""
    tokens = "trained in another run, on how many tokens this record does not say"
    if all(record.train_tokens for record in records):
        counts = [record.train_tokens for record in records]
        tokens = _count(counts, table.train_tokens, "training tokens", TOKENS_TOLERANCE)
    parameters = [record.parameters for record in records]
    tokenizers = [f"tokenizer {record.tokenizer.get('name')}" for record in records]
    differences = [
        _count(parameters, table.parameters, "parameters", PARAMETERS_TOLERANCE),
        tokens,
        *(_name(name, table.tokenizer, table.tokenizer_names) for name in tokenizers),
        *(_name(_data(each), table.data, table.data_names) for each in records),
    ]
    return list(dict.fromkeys(difference for difference in differences if difference))


def _count(ours: Sequence[int], published: int, what: str, tolerance: float) -> str | None:
    least, most = short_count(min(ours)), short_count(max(ours))
    counted = f"{most if least == most else f'{least} to {most}'} {what}"
    if not published:
        return f"{counted}, the paper does not say how many"
    if all(math.isclose(count, published, rel_tol=tolerance) for count in ours):
        return None
    return f"{counted}, not {short_count(published)}"


def _name(ours: str, published: str, accepted: Sequence[str]) -> str | None:
    if published == NOT_APPLICABLE or any(name in ours.lower() for name in accepted):
        return None
    return f"{ours}, not {published}"


def _data(record: Record) -> str:
    """Every name that the record gives to a text that the model was trained on."""
    trained_on: dict[str, Any] | None = record.config.get("trained_on")
    text: dict[str, Any] = (trained_on or record.config).get("text") or {}
    noise = None if trained_on else record.protocol.get("noise")  # the evaluation's, not training's
    names = [noise, *(text.get(key) for key in ("source", "dataset"))]
    return f"data {' '.join(dict.fromkeys(str(name) for name in names if name)) or 'unknown'}"
