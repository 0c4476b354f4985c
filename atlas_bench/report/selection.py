"""The best settings of a sweep, chosen by validation scores alone; test scores decide nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.row_groups import below, differing, order_of, setup_of

# A sweep finds the best settings for each of these; every other key is a setting.
SWEEP_COMPARES = ("model.name", "scale", "task", "text")
SIZE = "parameters"  # follows from other keys
# A table chooses among fewer keys. A row may stand for one variant of a model, and how much a run
# is trained, on which lengths, is another question.
# The size and optimizer of a task's own learner are part of the model name in its records.
LEARNER = "task.learner"
TABLE_CHOOSES = ("training", LEARNER)
TABLE_COMPARES = ("training.tokens", "training.epochs", "training.curriculum")
CHOSEN = "chosen by validation"  # stands in the config for the chosen value
NO_CHOICE = (
    "none is chosen without the same validation scores in all of them (validation_samples=N)"
)


@dataclass(frozen=True)
class SettingsGrid:
    """Runs of one model, scale and task with different settings, and those that validation chooses.

    Scores are means over seeds. Settings with fewer seeds than others are left out, because a lucky
    seed would win. The first of equal settings wins.
    """

    records: tuple[Record, ...]
    varied: tuple[str, ...]  # keys, e.g. "training.learning_rate"
    best: tuple[Record, ...]  # one per seed; none if not all have the same validation scores
    points: int  # settings with as many seeds as these
    left_out: int  # settings with fewer seeds

    @property
    def model(self) -> str:
        """Model and scale."""
        return f"{self.records[0].model} {self.records[0].scale}"

    @property
    def subject(self) -> str:
        """The subtask, or the task if there are several subtasks."""
        subtasks = {score.subtask for score in self.records[0].scores}
        return subtasks.pop() if len(subtasks) == 1 else self.records[0].task

    @property
    def settings(self) -> dict[str, Any]:
        """The best values of the keys that vary."""
        setup = setup_of(self.best[0])
        return {key: setup.get(key) for key in self.varied}

    @property
    def score(self) -> float:
        """The mean validation score of the best settings over their seeds."""
        return _validation_score(self.best)

    def chosen_records(self) -> list[Record]:
        """The runs with the best settings; all runs if there are none.

        Their configs say `CHOSEN` instead of the value, so that runs of other subtasks, for which
        other values were chosen, can fill the same row of a paper's table.
        """
        chosen = dict.fromkeys(self.varied, CHOSEN)  # dotted keys, which come last in `flatten`
        best = [replace(record, config=record.config | chosen) for record in self.best]
        return best or list(self.records)


def best_settings(records: Iterable[Record]) -> list[SettingsGrid]:
    """The best settings for each model, scale and task, of runs with validation samples."""

    def compared(record: Record) -> list[Any]:
        facts = {
            key: value
            for key, value in setup_of(record).items()
            if below(key, SWEEP_COMPARES) and not below(key, (LEARNER,))
        }
        return [record.task, record.model, facts]

    validated = [record for record in records if record.validation]
    return [_grid(group) for group in _group_by(validated, compared)]


def find_grids(records: Iterable[Record]) -> list[SettingsGrid]:
    """Runs that would be separate rows of a table only because of their training settings."""

    def compared(record: Record) -> list[Any]:
        facts = {
            key: value
            for key, value in setup_of(record).items()
            if not below(key, TABLE_CHOOSES) or below(key, TABLE_COMPARES)
        }
        fingerprint = record.tokenizer.get("fingerprint")
        return [record.task, record.model, record.scale, fingerprint, facts]

    grids = []
    for group in _group_by(records, compared):
        # Means over different samples cannot be compared.
        validated = {
            tuple((score.subtask, score.length_name, score.metric) for score in each.validation)
            for each in group
        }
        grids.append(_grid(group, choose=len(validated) == 1 and validated != {()}))
    return [grid for grid in grids if grid.varied]


def without_grids(records: Iterable[Record], grids: Iterable[SettingsGrid]) -> list[Record]:
    """Records that are in none of the grids."""
    in_grids = {id(record) for grid in grids for record in grid.records}
    return [record for record in records if id(record) not in in_grids]


def describe_grids(grids: Iterable[SettingsGrid]) -> list[str]:
    """One sentence for all subjects of a model for which it is the same."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for grid in grids:
        subjects.setdefault((grid.model, _describe(grid)), []).append(grid.subject)
    return [f"{model}, {', '.join(names)}: {text}" for (model, text), names in subjects.items()]


def _describe(grid: SettingsGrid) -> str:
    if not grid.best:
        return f"the points of a grid of {', '.join(grid.varied)} stand apart: {NO_CHOICE}"
    settings = ", ".join(f"{key}={value}" for key, value in grid.settings.items())
    fewer = f", {grid.left_out} with fewer seeds left out" if grid.left_out else ""
    return f"{settings}, the best by validation of {grid.points} points{fewer}"


def _group_by(
    records: Iterable[Record], facts_of: Callable[[Record], list[Any]]
) -> list[list[Record]]:
    """Records with equal facts, in the order of all tables."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=order_of):
        key = json.dumps(facts_of(record), sort_keys=True, default=str)
        groups.setdefault(key, []).append(record)
    return list(groups.values())


def _grid(records: Sequence[Record], *, choose: bool = True) -> SettingsGrid:
    varied = [key for key in differing(list(map(setup_of, records))) if key != SIZE]
    points = _group_by(records, lambda record: [setup_of(record).get(key) for key in varied])
    seeds = [len({record.seed for record in point}) for point in points]
    complete = [point for point, count in zip(points, seeds, strict=True) if count == max(seeds)]
    best = max(complete, key=_validation_score) if choose else ()
    fewer = len(points) - len(complete)
    return SettingsGrid(tuple(records), tuple(varied), tuple(best), len(complete), fewer)


def _validation_score(records: Sequence[Record]) -> float:
    return mean(record.validation_score for record in records)
