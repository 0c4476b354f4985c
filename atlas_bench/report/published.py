"""The papers' tables, and which scores of a record belong in which of their cells.

All of it is data in `published/`. Each table is a file with one model per row. `tables.csv` says
what a table is about and how its models were trained, `columns.csv` which measures a column is the
mean of, and `measures.csv` which score of a record a measure is. The tests check that the files
agree with each other.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from atlas_bench.artifacts.metrics import SHARE
from atlas_bench.artifacts.schema import Record, Score

NOT_APPLICABLE = "-"  # in tables.csv: not compared; an empty field: the paper does not state it
FIXTURE = "(fixture)"  # in the names of everything measured on made-up data


@dataclass(frozen=True)
class Measure:
    """A score as records have it.

    ``tasks`` and ``subtasks`` are synonyms. An empty ``length`` stands for any length. ``samples``
    is the number that the paper's protocol asks for, 0 if unknown.
    """

    name: str
    tasks: tuple[str, ...]
    subtasks: tuple[str, ...]
    length: str
    metric: str
    unit: str
    samples: int

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


Weights = Mapping[Measure, float]  # weights of a mean; they add up to 1, or the mapping is empty


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
    stand_in: Weights
    decimals: int  # as printed by the paper; it prints none for some columns

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
    0 or empty if the paper does not. A record's tokenizer or data is the paper's if its name
    contains one of ``tokenizer_names`` or ``data_names``."""

    name: str
    title: str
    paper: str
    parameters: int
    train_tokens: int
    tokenizer: str
    tokenizer_names: list[str]
    data: str
    data_names: list[str]
    note: str
    columns: list[Column]
    rows: list[PublishedRow]

    @property
    def presets(self) -> set[str]:
        return {row.preset for row in self.rows}


def without_fixture(name: str) -> str:
    return name.removesuffix(FIXTURE).rstrip()


def published_names() -> list[str]:
    """The names of all tables, in the order of the papers."""
    return [line["name"] for line in _lines("tables")]


@cache
def published_table(name: str) -> PublishedTable:
    """The table called ``name``, which must be one of `published_names`."""
    (about,) = (line for line in _lines("tables") if line["name"] == name)
    columns = [_column(line) for line in _lines("columns") if line.pop("table") == name]
    rows = []
    for line in _lines(name):
        numbers = {column.name: line.pop(column.name) for column in columns}
        values = {column: float(number) for column, number in numbers.items() if number}
        rows.append(PublishedRow(**line, values=values))
    for key in ("parameters", "train_tokens"):
        about[key] = int(about[key] or 0)
    for key in ("tokenizer_names", "data_names"):
        about[key] = about[key].split()
    return PublishedTable(**about, columns=columns, rows=rows)


def _column(line: dict[str, str]) -> Column:
    """A line of columns.csv: ``a+b c`` is the mean of c and of the mean of a and b."""
    cases = _cases()
    parts = [part.split("+") for part in line.pop("measures").split()]
    weights, baselines = (
        {
            case: 1 / len(parts) / len(part) / len(cases[name][:most])
            for part in parts
            for name in part
            for case in cases[name][:most]
        }
        for most in (None, 1)
    )
    means = {"weights": weights, "baselines": baselines, "stand_in": {}}
    if line["stand_in"]:
        means["stand_in"] = dict.fromkeys(cases[line["stand_in"]], 1.0)
    return Column(**line | means | {"decimals": int(line["decimals"])})


@cache
def _cases() -> dict[str, list[Measure]]:
    """The cases of each measure: itself, then MAD's changes to it, for which it is the baseline."""
    cases = {}
    for line in _lines("measures"):
        subtasks, changes = line["subtasks"].split(), line.pop("changes").split()
        converted = {"tasks": tuple(line["tasks"].split()), "samples": int(line["samples"] or 0)}
        measure = Measure(**line | converted | {"subtasks": tuple(subtasks)})
        cases[measure.name] = [measure] + [
            replace(measure, subtasks=(f"{subtasks[0]} {change}",)) for change in changes
        ]
    return cases


def _lines(name: str) -> list[dict[str, str]]:
    text = (files("atlas_bench.report") / "published" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
