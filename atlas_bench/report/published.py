"""The papers' tables, and which score of a record belongs in which of their cells.

All of it is data, in `published/`: one file for each table with the models down, `tables.csv` (what
a table is about and how its models were trained), `columns.csv` (the measures that make a column)
and `measures.csv` (the task, subtask, length and metric of a record that a measure is).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from statistics import mean
from typing import TypeVar

from atlas_bench.artifacts.metrics import metric_of_format_1
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.naming import check_choice
from atlas_bench.tasks.mad.cases import BASELINE, subtask_score

LOSS_DECIMALS = 3  # of ours where a figure prints none
NOT_APPLICABLE = "-"  # in tables.csv, where nothing is to be compared; empty is: not stated
FIXTURE = "(fixture)"  # in the names of everything measured on made-up stand-ins for real data
Value = TypeVar("Value")


@dataclass(frozen=True)
class Measure:
    """A score as records have it, or the mean of several.

    ``tasks`` and ``subtasks`` are other names of one thing. ``length`` is empty where any will do.
    ``samples`` is how many the paper's protocol asks, None where that is not known. With ``cases``
    it is the mean over MAD's baseline of a subtask and all changes to it.
    """

    name: str
    tasks: tuple[str, ...]
    subtasks: tuple[str, ...]
    length: str
    metric: str
    samples: int | None
    cases: bool

    @property
    def in_per_cent(self) -> bool:
        return metric_of_format_1(self.metric).is_share

    @property
    def baseline(self) -> Measure:
        """Of the baseline alone."""
        return replace(self, cases=False)

    def scores(self, record: Record) -> list[Score]:
        """Those of ``record``, made on real data or on fixtures."""
        if without_fixture(record.task) not in self.tasks:
            return []
        return [
            score
            for score in record.scores
            if self._is(without_fixture(score.subtask))
            and score.metric == self.metric
            and self.length in ("", score.length_name)
        ]

    def _is(self, subtask: str) -> bool:
        return subtask in self.subtasks or (
            self.cases and subtask.partition(" ")[0] in self.subtasks
        )

    def value(self, scores: Sequence[Score]) -> float | None:
        """Of what `scores` found; None where that is nothing, or not every case."""
        if not self.cases:
            return mean(score.value for score in scores) if scores else None
        accuracies = {score.subtask.partition(" ")[2] or BASELINE: score.value for score in scores}
        return subtask_score(accuracies, self.subtasks[0])


@dataclass(frozen=True)
class Column:
    """The mean over its ``parts``, most often one. ``stand_in`` is what a run too small for them
    may have instead, another measure that can only be compared in how it orders models."""

    name: str
    group: str
    heading: str
    parts: tuple[tuple[Measure, ...], ...]  # each a mean itself
    stand_in: Measure | None
    decimals: int  # that the paper prints, or of ours where it prints no number

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(measure for part in self.parts for measure in part)

    @property
    def in_per_cent(self) -> bool:
        return self.measures[0].in_per_cent

    @property
    def title(self) -> str:
        return f"{self.group} {self.heading}".strip()


@dataclass(frozen=True)
class PublishedRow:
    """One model's numbers by column, shares in per cent. ``preset`` is the name of the same model
    in conf/model, empty where there is none."""

    model: str
    preset: str
    values: dict[str, float]
    source: str
    note: str


@dataclass(frozen=True)
class PublishedTable:
    """``parameters``, ``train_tokens``, ``tokenizer`` and ``data`` say how its models were trained;
    None or empty where the paper does not. The names are parts of what records call them."""

    name: str
    title: str
    paper: str
    parameters: int | None
    train_tokens: int | None
    tokenizer: str
    tokenizer_names: tuple[str, ...]
    data: str
    data_names: tuple[str, ...]
    note: str
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]


def without_fixture(name: str) -> str:
    return name.removesuffix(FIXTURE).rstrip()


def published_names() -> list[str]:
    """Of all tables, in the order of the papers."""
    return [line["table"] for line in _lines("tables")]


@cache
def published_table(name: str) -> PublishedTable:
    """The table called ``name``.

    Raises ValueError in one sentence, with the nearest name, for an unknown one, and for data that
    contradicts itself.
    """
    check_choice("--table", name, published_names())
    about = next(line for line in _lines("tables") if line["table"] == name)
    lines = _lines(name)
    columns = _columns(name, lines)
    return PublishedTable(
        name=name,
        title=about["title"],
        paper=about["paper"],
        parameters=_number(about, "parameters", int),
        train_tokens=_number(about, "train_tokens", int),
        tokenizer=about["tokenizer"],
        tokenizer_names=tuple(about["tokenizer_names"].split()),
        data=about["data"],
        data_names=tuple(about["data_names"].split()),
        note=about["note"],
        columns=columns,
        rows=tuple(_row(name, line, columns) for line in lines),
    )


def _columns(table: str, rows: list[dict[str, str]]) -> tuple[Column, ...]:
    measures = _measures()
    lines = {line["column"]: line for line in _lines("columns") if line["table"] == table}
    expected = ["model", "preset", *lines, "source", "note"]
    if not rows or list(rows[0]) != expected:
        raise ValueError(f"published/{table}.csv must have the columns {', '.join(expected)}")

    def part(column: str, name: str) -> tuple[Measure, ...]:
        """A measure, or another column of the table with all of its measures."""
        if name != column and name in lines:
            return tuple(measures[each] for each in lines[name]["measures"].split())
        check_choice(f"published/columns.csv: {table}.{column}", name, measures)
        return (measures[name],)

    columns = tuple(
        Column(
            name=column,
            group=line["group"],
            heading=line["heading"],
            parts=tuple(part(column, name) for name in line["measures"].split()),
            stand_in=measures[line["stand_in"]] if line["stand_in"] else None,
            decimals=_decimals([row[column] for row in rows], line["measures"]),
        )
        for column, line in lines.items()
    )
    for column in columns:
        # Per cent and perplexity are the better in opposite directions, and cannot be averaged.
        if len({measure.in_per_cent for measure in column.measures}) > 1 or (
            column.stand_in and column.stand_in.in_per_cent != column.in_per_cent
        ):
            raise ValueError(f"published/columns.csv: {table}.{column.name} mixes units")
    return columns


def _decimals(printed: list[str], measure: str) -> int:
    """Of a column; one without a number that is in per cent has none."""
    loss = measure in _measures() and not _measures()[measure].in_per_cent
    digits = [len(each.partition(".")[2]) for each in printed if each]
    return max(digits, default=LOSS_DECIMALS if loss else 0)


@cache
def _measures() -> dict[str, Measure]:
    return {
        line["measure"]: Measure(
            name=line["measure"],
            tasks=tuple(line["tasks"].split()),
            subtasks=tuple(line["subtasks"].split()),
            length=line["length"],
            metric=line["metric"],
            samples=_number(line, "samples", int),
            cases=line["cases"] == "mad",
        )
        for line in _lines("measures")
    }


def _row(table: str, line: dict[str, str], columns: tuple[Column, ...]) -> PublishedRow:
    where = f"published/{table}.csv: {line['model']}"
    if not (line["model"] and line["source"]):
        raise ValueError(f"{where} needs a model and a source")
    values = {}
    for column in columns:
        value = _number(line, column.name, float)
        if value is None:
            continue
        if not (math.isfinite(value) and value >= 0 and (value <= 100 or not column.in_per_cent)):
            raise ValueError(f"{where}: {column.name}={value} cannot be")
        values[column.name] = value
    return PublishedRow(line["model"], line["preset"], values, line["source"], line["note"])


def _number(line: dict[str, str], key: str, kind: Callable[[str], Value]) -> Value | None:
    """None where the field is empty or does not apply."""
    return None if line[key] in ("", NOT_APPLICABLE) else kind(line[key])


def _lines(name: str) -> list[dict[str, str]]:
    text = (files("atlas_bench.report") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
