"""A sweep's best settings, by validation samples alone; test scores are looked at afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from atlas_bench.artifacts.records import read_record
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.rows import below, differing, order_of, setup_of

# What a sweep compares, and so has settings of its own; the rest is there to choose from.
COMPARED = ("model.name", "scale", "task", "text")
FOLLOWS = ("name", "parameters")  # from other keys
# A table chooses from less: rows may differ in the model's own settings, and how much is trained,
# on which lengths, is another question.
# Of a task's own learner the size and optimizer are in the record's model, which stands apart.
LEARNER = "task.learner"
CHOSEN_FROM = ("training", LEARNER)
NOT_CHOSEN = ("training.tokens", "training.epochs", "training.curriculum")
MARK = "chosen by validation"  # instead of the value
NO_CHOICE = (
    "none is chosen without the same validation scores in all of them (validation_samples=N)"
)


@dataclass(frozen=True)
class Choice:
    """The point of a grid that one model has its best validation score at."""

    model: str
    scale: str
    task: str
    settings: dict[str, Any]  # of what the grid varies, e.g. {"training.learning_rate": 0.004}
    score: float  # on validation samples, mean over the seeds
    points: int  # of the grid, with as many seeds as this one
    left_out: int  # points with fewer seeds
    records: tuple[Record, ...]  # one for each seed


@dataclass(frozen=True)
class Grid:
    """Runs of one model, scale and task that differ in settings of their training; ``choice`` is
    None where not all of them have the same validation scores."""

    records: tuple[Record, ...]
    varied: tuple[str, ...]
    choice: Choice | None

    @property
    def of(self) -> tuple[str, str]:
        """Model and scale."""
        return self.records[0].model, self.records[0].scale

    @property
    def cell(self) -> str:
        """What was asked: the subtask, where it is one."""
        subtasks = {score.subtask for score in self.records[0].scores}
        return subtasks.pop() if len(subtasks) == 1 else self.records[0].task

    @property
    def best(self) -> tuple[Record, ...]:
        """Of the best point; all where there is no choice."""
        return self.records if self.choice is None else self.choice.records

    @property
    def marked(self) -> list[Record]:
        """Those of `best`; chosen ones with settings that say so instead of a value, so that in a
        paper's table they fill one row with what was chosen from the same grid for other cells."""
        if self.choice is None:
            return list(self.records)
        found = []
        for record in self.choice.records:
            config = record.config
            for key in self.varied:
                config = _with_mark(config, key.split("."))
            found.append(replace(record, config=config))
        return found


def objective(path: Path) -> float | None:
    """The validation score of the record at ``path``."""
    return read_record(path).validation_score


def best_settings(records: Iterable[Record]) -> list[Choice]:
    """The best point of the grid for each model, scale and task, of runs with validation samples.

    Points are means over their seeds; those that have fewer seeds than others are left out, for a
    lucky seed would win. Of equal points the first wins.
    """
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=order_of):
        if record.validation:
            facts = {key: value for key, value in setup_of(record).items() if _is_compared(key)}
            groups.setdefault(_as_key([record.task, record.model, facts]), []).append(record)
    return [_best(group) for group in groups.values()]


def find_grids(records: Iterable[Record]) -> list[Grid]:
    """Runs that would be rows of their own in a table for nothing but their training settings."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=order_of):
        facts = {key: value for key, value in setup_of(record).items() if not _is_swept(key)}
        same = [record.task, record.model, record.scale, record.tokenizer.get("fingerprint"), facts]
        groups.setdefault(_as_key(same), []).append(record)
    grids = []
    for group in groups.values():
        if varied := differing([setup_of(record) for record in group]):
            validated = {_as_key(_validated(record)) for record in group}
            choice = _best(group) if group[0].validation and len(validated) == 1 else None
            grids.append(Grid(tuple(group), tuple(varied), choice))
    return grids


def outside(records: Iterable[Record], grids: Iterable[Grid]) -> list[Record]:
    """Records that are in none of the grids."""
    inside = {id(record) for grid in grids for record in grid.records}
    return [record for record in records if id(record) not in inside]


def describe_grids(grids: Iterable[Grid]) -> list[str]:
    """A sentence for all cells of a model and scale that say the same."""
    said: dict[tuple[str, str], list[str]] = {}
    for grid in grids:
        said.setdefault((" ".join(grid.of), _said(grid)), []).append(grid.cell)
    return [f"{model}, {', '.join(cells)}: {what}" for (model, what), cells in said.items()]


def _said(grid: Grid) -> str:
    choice = grid.choice
    if choice is None:
        return f"the points of a grid of {', '.join(grid.varied)} stand apart: {NO_CHOICE}"
    settings = ", ".join(f"{key}={value}" for key, value in choice.settings.items())
    fewer = f", {choice.left_out} with fewer seeds left out" if choice.left_out else ""
    return f"{settings}, the best by validation of {choice.points} points{fewer}"


def _validated(record: Record) -> list[tuple[str, str, str]]:
    """What the validation scores are of: means over different cells cannot be compared."""
    return [(score.subtask, score.length_name, score.metric) for score in record.validation]


def _best(records: Sequence[Record]) -> Choice:
    setups = [setup_of(record) for record in records]
    varied = [key for key in differing(setups) if key not in FOLLOWS]
    points: dict[str, list[Record]] = {}
    for record, setup in zip(records, setups, strict=True):
        points.setdefault(_as_key([setup.get(key) for key in varied]), []).append(record)
    seeds = max(len({record.seed for record in point}) for point in points.values())
    whole = [point for point in points.values() if len({record.seed for record in point}) == seeds]
    best = max(whole, key=_mean_score)
    setup, first = setup_of(best[0]), best[0]
    return Choice(
        model=first.model,
        scale=first.scale,
        task=first.task,
        settings={key: setup.get(key) for key in varied},
        score=_mean_score(best),
        points=len(whole),
        left_out=len(points) - len(whole),
        records=tuple(best),
    )


def _mean_score(records: Sequence[Record]) -> float:
    return mean(record.validation_score for record in records)


def _is_compared(key: str) -> bool:
    return below(key, COMPARED) and not below(key, (LEARNER,))


def _is_swept(key: str) -> bool:
    return below(key, CHOSEN_FROM) and not below(key, NOT_CHOSEN)


def _with_mark(config: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """A copy of nested settings with MARK where ``path`` leads."""
    first, *rest = path
    inner = _with_mark(config.get(first, {}), rest) if rest else MARK
    return {**config, first: inner}


def _as_key(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True, default=str)
