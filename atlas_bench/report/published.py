"""The papers' tables, and which scores of a record belong in which of their cells.

All of it is data in `published/`. Each table is a file with one model per row. `tables.csv` says
what a table is about and how its models were trained, `columns.csv` which measures a column is the
mean of, `measures.csv` which score of a record a measure is, and `mad_cases.csv` over which cases
MAD averages.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TypeVar

from atlas_bench.artifacts.metrics import SHARE
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.naming import check_choice

DECIMALS_WITHOUT_NUMBERS = 3  # for a column whose numbers the paper does not print; a share has 0
NOT_APPLICABLE = "-"  # in tables.csv: not compared; an empty field: the paper does not state it
FIXTURE = "(fixture)"  # in the names of everything measured on made-up data
Value = TypeVar("Value")


@dataclass(frozen=True)
class Measure:
    """A score as records have it.

    ``tasks`` and ``subtasks`` are synonyms. An empty ``length`` stands for any length. ``samples``
    is the number that the paper's protocol asks for, None if unknown.
    """

    name: str
    tasks: tuple[str, ...]
    subtasks: tuple[str, ...]
    length: str
    metric: str
    unit: str
    samples: int | None

    def scores(self, record: Record) -> list[Score]:
        """The matching scores of ``record``, measured on real data or on fixtures."""
        if without_fixture(record.task) not in self.tasks:
            return []
        return [
            score
            for score in record.scores
            if score.metric == self.metric
            and self.length in ("", score.length_name)
            and without_fixture(score.subtask) in self.subtasks
        ]


Weights = Mapping[Measure, float]  # of a weighted mean; they add up to 1


@dataclass(frozen=True)
class Column:
    """A weighted mean of measures, most often one. ``baselines`` is the same mean over MAD's
    baselines alone. ``stand_in`` is another measure for runs that are too small for these; only the
    order of the models can be compared with it."""

    name: str
    group: str
    heading: str
    weights: Weights
    baselines: Weights
    stand_in: Measure | None
    decimals: int  # as printed by the paper

    @property
    def in_per_cent(self) -> bool:
        return next(iter(self.weights)).unit == SHARE


@dataclass(frozen=True)
class PublishedRow:
    """One model's numbers by column, shares in per cent. ``preset`` is the same model's name in
    conf/model, empty if there is none."""

    model: str
    preset: str
    values: dict[str, float]
    source: str
    note: str


@dataclass(frozen=True)
class PublishedTable:
    """``parameters``, ``train_tokens``, ``tokenizer`` and ``data`` say how the models were trained;
    None or empty if the paper does not. A record's tokenizer or data is the paper's if its name
    contains one of ``tokenizer_names`` or ``data_names``."""

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

    @property
    def presets(self) -> set[str]:
        return {row.preset for row in self.rows}


def without_fixture(name: str) -> str:
    return name.removesuffix(FIXTURE).rstrip()


def published_names() -> list[str]:
    """The names of all tables, in the order of the papers."""
    return [line["table"] for line in _lines("tables")]


@cache
def published_table(name: str) -> PublishedTable:
    """The table called ``name``.

    Raises ValueError in one sentence for an unknown name, and for data that contradict themselves.
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


def _columns(table: str, rows: Sequence[dict[str, str]]) -> tuple[Column, ...]:
    measures = _measures()
    lines = {line["column"]: line for line in _lines("columns") if line["table"] == table}
    expected = ["model", "preset", *lines, "source", "note"]
    if not rows or list(rows[0]) != expected:
        raise ValueError(f"published/{table}.csv must have the columns {', '.join(expected)}")
    columns = []
    for name, line in lines.items():
        parts = []
        for part in line["measures"].split():  # each a measure, or another column with its measures
            members = [part]
            if part != name and part in lines:
                members = lines[part]["measures"].split()
            for member in members:
                check_choice(f"published/columns.csv: {table}.{name}", member, measures)
            parts.append([measures[member] for member in members])
        stand_in = measures[line["stand_in"]][0] if line["stand_in"] else None
        weights = _mean_of(parts)
        units = {measure.unit for measure in (*weights, *([stand_in] if stand_in else []))}
        if len(units) > 1:
            raise ValueError(f"published/columns.csv: {table}.{name} mixes units")
        columns.append(
            Column(
                name=name,
                group=line["group"],
                heading=line["heading"],
                weights=weights,
                baselines=_mean_of([[cases[:1] for cases in part] for part in parts]),
                stand_in=stand_in,
                decimals=_decimals([row[name] for row in rows], units.pop()),
            )
        )
    return tuple(columns)


def _mean_of(parts: Sequence[Sequence[Sequence[Measure]]]) -> Weights:
    """The mean over parts of the mean over their measures of the mean over the measure's cases."""
    weights: dict[Measure, float] = {}
    for part in parts:
        for cases in part:
            for case in cases:
                weight = 1 / len(parts) / len(part) / len(cases)
                weights[case] = weights.get(case, 0.0) + weight
    return weights


def _decimals(printed: Sequence[str], unit: str) -> int:
    digits = [len(number.partition(".")[2]) for number in printed if number]
    return max(digits, default=0 if unit == SHARE else DECIMALS_WITHOUT_NUMBERS)


@cache
def _measures() -> dict[str, list[Measure]]:
    """Each measure as its cases: MAD's have a baseline, which is the first, and changes to it."""
    changes = {line["subtask"]: line["changes"].split() for line in _lines("mad_cases")}
    measures = {}
    for line in _lines("measures"):
        measure = Measure(
            name=line["measure"],
            tasks=tuple(line["tasks"].split()),
            subtasks=tuple(line["subtasks"].split()),
            length=line["length"],
            metric=line["metric"],
            unit=line["unit"],
            samples=_number(line, "samples", int),
        )
        measures[measure.name] = [measure]
        if measure.tasks == ("mad",):
            (subtask,) = measure.subtasks
            measures[measure.name] += [
                replace(measure, subtasks=(f"{subtask} {change}",)) for change in changes[subtask]
            ]
    return measures


def _row(table: str, line: dict[str, str], columns: Sequence[Column]) -> PublishedRow:
    where = f"published/{table}.csv: {line['model']}"
    if not (line["model"] and line["source"]):
        raise ValueError(f"{where} needs a model and a source")
    values = {}
    for column in columns:
        value = _number(line, column.name, float)
        if value is None:
            continue
        if not (math.isfinite(value) and value >= 0 and (value <= 100 or not column.in_per_cent)):
            raise ValueError(f"{where}: {column.name}={value} is impossible")
        values[column.name] = value
    return PublishedRow(line["model"], line["preset"], values, line["source"], line["note"])


def _number(line: dict[str, str], key: str, kind: Callable[[str], Value]) -> Value | None:
    """None if the field is empty or does not apply."""
    return None if line[key] in ("", NOT_APPLICABLE) else kind(line[key])


def _lines(name: str) -> list[dict[str, str]]:
    """The lines of a file; one with `lengths` stands for one line per length.

    ``{length}`` is the length as it is in the columns length and heading, in lower case elsewhere.
    """
    text = (files("atlas_bench.report") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    lines = []
    for line in csv.DictReader(text.splitlines()):
        for length in line.pop("lengths", "").split() or [""]:
            names = {
                key: length if key in ("length", "heading") else length.lower() for key in line
            }
            lines.append({key: line[key].replace("{length}", names[key]) for key in line})
    return lines
