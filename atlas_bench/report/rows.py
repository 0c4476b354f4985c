"""Which runs make one row of a table, or one line of a plot.

Runs that differ in nothing but the seed are one row with mean and spread; runs measured or set up
differently never share one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from atlas_bench.artifacts.schema import Record, Score

# Config that does not decide what a score means: places, names, and what was asked beside it.
NO_SETUP = (
    "seed", "name", "mode", "checkpoint", "resume", "output_dir", "logger", "task.lengths",
    "trained_on.task.lengths",
)  # fmt: skip
# The last step of training may overshoot its budget by less than this share.
TOKENS_TOLERANCE = 0.01
MOST_DIFFERENCES = 5  # named in one note

Length = tuple[int, str]  # nominal tokens, name; "1k" is 1000 or 1024 tokens by convention


@dataclass(frozen=True)
class Cell:
    """One row at one length: a score with its Wilson interval, or the mean over several seeds."""

    value: float
    low: float | None  # of one seed: Wilson, if it is a proportion; of several: mean - spread
    high: float | None
    spread: float | None  # standard deviation over the seeds, None for one
    seeds: int
    samples: int  # of each seed


@dataclass
class Row:
    """Runs that differ only in their seed."""

    records: list[Record]
    mark: int | None = None  # number of the note that tells this row from others
    note: str | None = None
    # by subtask, metric and length
    cells: dict[tuple[str, str, Length], Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Model and scale, and the number of the note where there is one."""
        name = f"{self.records[0].model} {self.records[0].scale}"
        return name if self.mark is None else f"{name} [{self.mark}]"

    @property
    def label(self) -> str:
        """The name, and how many seeds it stands for."""
        seeds = len(self.records)
        return self.name if seeds == 1 else f"{self.name} ({seeds} seeds)"

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.records[0].task, self.records[0].model, self.records[0].scale

    def subtasks(self, metric: str) -> set[str]:
        return {subtask for subtask, name, _ in self.cells if name == metric}

    def takes(self, record: Record) -> bool:
        """Whether ``record`` is this row's run with another seed."""
        return (
            self.identity == (record.task, record.model, record.scale)
            and record.seed not in [other.seed for other in self.records]
            and not differing([protocol_of(self.records[0]), protocol_of(record)])
            and not differing([setup_of(self.records[0]), setup_of(record)])
        )


def merge_runs(records: Iterable[Record]) -> list[Row]:
    """Rows in a fixed order: by task, model, size and start. Runs without scores have none."""
    rows: list[Row] = []
    for record in sorted((record for record in records if record.scores), key=order_of):
        row = next((row for row in rows if row.takes(record)), None)
        if row is None:
            rows.append(Row([record]))
        else:
            row.records.append(record)
    for row in rows:
        row.cells = _cells(row.records)
    for task in {row.identity[0] for row in rows}:
        _mark([row for row in rows if row.identity[0] == task])
    return rows


def protocol_of(record: Record) -> dict[str, Any]:
    """How the scores were measured: what rows must share to be compared at all."""
    facts = flatten({**record.protocol, "tokenizer": record.tokenizer})
    if record.config.get("training", {}).get("stop_at") is not None:
        facts.pop("train_tokens", None)  # found, not set: a seed that is there sooner ends sooner
    return {key: value for key, value in facts.items() if key.split(".")[0] != "chance"}


def setup_of(record: Record) -> dict[str, Any]:
    """What was trained: what runs must share to be seeds of one row."""
    facts = flatten({**record.config, "parameters": record.parameters})
    return {key: value for key, value in facts.items() if not below(key, NO_SETUP)}


def below(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of ``names`` or in one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def order_of(record: Record) -> tuple:
    return (
        record.task,
        record.model,
        record.parameters,
        record.scale,
        record.started_at,
        record.seed,
        str(record.path),
    )


def differing(facts: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same everywhere, in order of appearance."""
    keys = dict.fromkeys(key for each in facts for key in each)
    return [key for key in keys if not _same(key, [each.get(key) for each in facts])]


def _same(key: str, values: Sequence[Any]) -> bool:
    first = values[0]
    if key == "train_tokens" and all(isinstance(value, (int, float)) for value in values):
        return all(math.isclose(value, first, rel_tol=TOKENS_TOLERANCE) for value in values)
    return all(value == first for value in values)


def _cells(records: Sequence[Record]) -> dict[tuple[str, str, Length], Cell]:
    found: dict[tuple[str, str, Length], list[Score]] = {}
    for record in records:
        for score in record.scores:
            key = (score.subtask, score.metric, (score.length_tokens, score.length_name))
            found.setdefault(key, []).append(score)
    return {key: _cell(scores) for key, scores in found.items()}


def _cell(scores: Sequence[Score]) -> Cell:
    samples = min(score.samples for score in scores)
    if len(scores) == 1:
        only = scores[0]
        return Cell(only.value, only.ci_low, only.ci_high, None, 1, samples)
    values = [score.value for score in scores]
    centre, spread = mean(values), stdev(values)
    return Cell(centre, centre - spread, centre + spread, spread, len(scores), samples)


def natural(name: str) -> tuple[str | int, ...]:
    """A sort key that puts qa2 before qa10 and 256-511 before 1024-2047."""
    return tuple(
        int(part) if at % 2 else part for at, part in enumerate(re.split(r"([0-9]+)", name))
    )


# telling rows apart ------------------------------------------------------------------------


def _mark(rows: Sequence[Row]) -> None:
    """Number the rows of one task that were not measured alike or share a name, with a note."""
    protocols = [protocol_of(row.records[0]) for row in rows]
    measured = differing(protocols)
    number = 0
    for row, protocol in zip(rows, protocols, strict=True):
        twins = [other for other in rows if other.identity == row.identity and _share(other, row)]
        if not measured and len(twins) == 1:
            continue
        number += 1
        setup = setup_of(row.records[0])
        facts = {key: protocol.get(key) for key in measured}
        for key in differing([setup_of(twin.records[0]) for twin in twins]):
            facts[key] = setup.get(key)
        row.mark, row.note = number, f"[{number}] {said(facts)} ({_origin(row)})"


def _share(one: Row, other: Row) -> bool:
    """Whether a table has both side by side; runs of different subtasks it has not."""
    subtasks = ({(subtask, metric) for subtask, metric, _ in row.cells} for row in (one, other))
    return not set.isdisjoint(*subtasks)


def said(facts: dict[str, Any]) -> str:
    """Facts that tell rows apart in a few words."""
    shown = [
        f"no {key}" if value is None else f"{key}={value}"
        for key, value in list(facts.items())[:MOST_DIFFERENCES]
    ]
    if len(facts) > MOST_DIFFERENCES:
        shown.append(f"and {len(facts) - MOST_DIFFERENCES} more differences")
    return ", ".join(shown) or "the same config run again"


def _origin(row: Row) -> str:
    seeds = ", ".join(str(record.seed) for record in row.records)
    path = row.records[0].path
    return f"seed {seeds}" if path is None else f"seed {seeds}, {path.parent}"
