"""Which runs share one row of a table or one line of a plot, and the scores that such a row shows.

Runs are in one group when the facts that decide what a score means agree. Tables of our own runs
merge seeds; tables beside a paper merge subtasks too, because a benchmark such as MAD trains one
model per subtask.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import mean, stdev
from typing import Any

from atlas_bench.artifacts.schema import Record, Score

# Config keys that do not change what a score means: places, names, which lengths were asked, and
# how the settings were found.
NOT_COMPARED = (
    "seed", "name", "mode", "checkpoint", "resume", "output_dir", "logger", "task.lengths",
    "trained_on.task.lengths", "training.checkpoint_minutes", "training.trials", "training.chosen",
)  # fmt: skip
# What was asked of a run, and what follows from it: MAD's cases have different vocabularies.
SUBTASK_KEYS = ("task.subtask", "task.subtasks", "task.change", "task.target", "parameters")
NOT_LEARNT = "not learnt"  # stands for the scores of runs that passed no stage of their training
TOKENS_TOLERANCE = 0.01  # the last training step may exceed the token budget by this share
MOST_DIFFERENCES = 5  # named in one note

Length = tuple[int, str]  # nominal tokens and name: "1k" is 1000 or 1024 tokens by convention
Cell = tuple[str, str, Length]  # subtask, metric and length


# estimates ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A score of one run with its interval, or the mean over several seeds."""

    value: float
    low: float | None  # one seed: the metric's interval, if any; several: mean - spread
    high: float | None
    spread: float | None  # standard deviation over the seeds; None for one seed
    seeds: int
    samples: int  # per seed


def estimate(
    values: Sequence[float], samples: int, low: float | None = None, high: float | None = None
) -> Estimate:
    """``values`` are one per seed; ``low`` and ``high`` are the interval of a single one."""
    if len(values) == 1:
        return Estimate(values[0], low, high, None, 1, samples)
    centre, spread = mean(values), stdev(values)
    return Estimate(centre, centre - spread, centre + spread, spread, len(values), samples)


# groups ------------------------------------------------------------------------------------


@dataclass
class RunGroup:
    """Runs that share one row. They agree in ``identity``, ``protocol`` and ``setup``, and no two
    of them have one of ``parts``."""

    records: list[Record]
    identity: tuple[str, ...]
    protocol: dict[str, Any]
    setup: dict[str, Any]
    parts: set[Any]
    mark: int | None = None  # number of the note that tells this group from others of its name
    note: str | None = None

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def name(self) -> str:
        """Model and scale, and the number of the note if there is one."""
        name = f"{self.first.model} {self.first.scale}"
        return name if self.mark is None else f"{name} [{self.mark}]"

    @property
    def label(self) -> str:
        """The name, and the number of seeds if there are several."""
        return f"{self.name} ({self.seeds})" if self.seeds else self.name

    @property
    def seeds(self) -> str:
        """How many seeds there are and how many of them learnt, where that is not self-evident."""
        seeds, learnt = len({record.seed for record in self.records}), self.learnt
        if learnt is None or learnt == seeds:
            return "" if seeds == 1 else f"{seeds} seeds"
        several = "" if seeds == 1 else f"{seeds} seeds, "
        return several + (f"{learnt} learnt" if learnt else NOT_LEARNT)

    @property
    def learnt(self) -> int | None:
        """The seeds whose every run passed a stage of its training; None if it is not known."""
        if any(record.stages is None for record in self.records):
            return None
        failed = {record.seed for record in self.records if record.not_learnt}
        return len({record.seed for record in self.records} - failed)

    @property
    def not_learnt(self) -> bool:
        """Whether no seed learnt, so that the row has no score beside others."""
        return self.learnt == 0

    @property
    def trials(self) -> int:
        """How many settings were tried before these were chosen."""
        return (self.first.config.get("training") or {}).get("trials") or 0

    @cached_property
    def estimates(self) -> dict[Cell, Estimate]:
        """By subtask, metric and length, merged over the seeds."""
        scores: dict[Cell, list[Score]] = {}
        for record in self.records:
            for score in record.scores:
                key = (score.subtask, score.metric, (score.length_tokens, score.length_name))
                scores.setdefault(key, []).append(score)
        return {
            key: estimate(
                [score.value for score in same],
                min(score.samples for score in same),
                *(same[0].ci_low, same[0].ci_high),
            )
            for key, same in scores.items()
        }

    def chance(self, subtask: str) -> float | None:
        """What guessing scores, if it is known."""
        chance = self.first.protocol.get("chance")
        chance = chance.get(subtask) if isinstance(chance, dict) else chance
        return chance if isinstance(chance, (int, float)) else None

    @cached_property
    def scored(self) -> set[tuple[str, str]]:
        """The subtasks and metrics that have scores."""
        return {(subtask, metric) for subtask, metric, _ in self.estimates}

    def subtasks(self, metric: str) -> set[str]:
        return {subtask for subtask, name in self.scored if name == metric}


def merge_seeds(records: Iterable[Record]) -> list[RunGroup]:
    """Groups of runs that differ only in their seed; runs without scores are left out.

    The order is fixed: by task, model, size and start. Groups of one task that were not measured
    alike, or that share a name in one table, are numbered.
    """

    def group_of(record: Record) -> RunGroup:
        identity = (record.task, record.model, record.scale)
        return RunGroup([record], identity, protocol_of(record), setup_of(record), {record.seed})

    groups = _merge(records, group_of)
    for _, of_task in groupby(groups, key=lambda group: group.first.task):
        number_twins(list(of_task), seeds=True)
    return groups


def merge_subtasks(records: Iterable[Record]) -> list[RunGroup]:
    """Groups of runs of one model and scale, set up alike except for what they were asked."""

    def group_of(record: Record) -> RunGroup:
        setup = setup_of(record) | {"tokenizer": record.tokenizer.get("fingerprint")}
        setup = {key: value for key, value in setup.items() if key not in SUBTASK_KEYS}
        scores = {
            (record.seed, each.subtask, each.length_name, each.metric) for each in record.scores
        }
        return RunGroup([record], (record.model, record.scale), {}, setup, scores)

    return _merge(records, group_of)


def _merge(records: Iterable[Record], group_of: Callable[[Record], RunGroup]) -> list[RunGroup]:
    groups: list[RunGroup] = []
    for new in map(group_of, sorted((each for each in records if each.scores), key=order_of)):
        for group in groups:
            if (
                group.identity == new.identity
                and group.parts.isdisjoint(new.parts)
                and not differing([group.protocol, new.protocol])
                and not differing([group.setup, new.setup])
            ):
                group.records += new.records
                group.parts |= new.parts
                break
        else:
            groups.append(new)
    return groups


def number_twins(groups: Sequence[RunGroup], *, seeds: bool = False) -> None:
    """Number groups whose protocols differ or that share a name, with a note of the differences.

    ``seeds``: the groups are those of `merge_seeds`. They share a name only where one table shows
    them, and the note says which seeds they have.
    """
    measured = differing([group.protocol for group in groups])
    number = 0
    for group in groups:
        twins = [
            other
            for other in groups
            if group.identity == other.identity and (not seeds or group.scored & other.scored)
        ]
        if not measured and len(twins) == 1:
            continue
        number += 1
        facts = {key: group.protocol.get(key) for key in measured}
        facts |= {key: group.setup.get(key) for key in differing([twin.setup for twin in twins])}
        said = [f"no {key}" if fact is None else f"{key}={fact}" for key, fact in facts.items()]
        if len(said) > MOST_DIFFERENCES:
            said[MOST_DIFFERENCES:] = [f"and {len(said) - MOST_DIFFERENCES} more differences"]
        path = group.first.path
        origin = [f"seed {', '.join(str(each.seed) for each in group.records)}"] if seeds else []
        origin += [str(path.parent)] if path else []
        group.mark = number
        group.note = f"[{number}] {', '.join(said) or 'the same config run again'}"
        group.note += f" ({', '.join(origin)})" if origin else ""


def tuning_notes(groups: Sequence[RunGroup]) -> list[str]:
    """A sentence that names who had how many trials, if rows were tuned unequally."""
    names: dict[int, dict[str, None]] = {}
    for group in groups:
        names.setdefault(group.trials, {})[group.name] = None
    if len(names) < 2:
        return []
    said = (f"{trials or 'no'} trials: {', '.join(names[trials])}" for trials in sorted(names))
    return [f"Tuned unequally, so compare with care: {'; '.join(said)}."]


# facts -------------------------------------------------------------------------------------


def protocol_of(record: Record) -> dict[str, Any]:
    """How the scores were measured: rows that differ in it must be compared with care."""
    facts = flatten({**record.protocol, "tokenizer": record.tokenizer})
    if (record.config.get("training") or {}).get("stop_at") is not None:
        facts.pop("train_tokens", None)  # a result: a seed that reaches the goal sooner stops
    return {key: value for key, value in facts.items() if key.split(".")[0] != "chance"}


def setup_of(record: Record) -> dict[str, Any]:
    """What was trained: seeds of one row must agree in it."""
    facts = flatten({**record.config, "parameters": record.parameters})
    return {key: value for key, value in facts.items() if not below(key, NOT_COMPARED)}


def below(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of ``names`` or inside one of them."""
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


def order_of(record: Record) -> tuple[Any, ...]:
    """The sort key of runs in every table."""
    return (
        *(record.task, record.model, record.parameters, record.scale),
        *(record.started_at, record.seed, str(record.path)),
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


def natural(name: str) -> tuple[str | int, ...]:
    """A sort key that puts qa2 before qa10 and 256-511 before 1024-2047."""
    return tuple(
        int(part) if at % 2 else part for at, part in enumerate(re.split(r"([0-9]{1,9})", name))
    )
