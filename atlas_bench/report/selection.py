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
class Choice:
    """The settings with the best validation score of one model, scale and task."""

    settings: dict[str, Any]  # the keys that vary, e.g. {"training.learning_rate": 0.004}
    score: float  # mean over the seeds
    points: int  # settings with as many seeds as these
    left_out: int  # settings with fewer seeds
    records: tuple[Record, ...]  # one per seed


@dataclass(frozen=True)
class SettingsGrid:
    """Runs of one model, scale and task with different training settings. ``choice`` is None if
    not all of them have the same validation scores."""

    records: tuple[Record, ...]
    varied: tuple[str, ...]
    choice: Choice | None

    @property
    def model(self) -> str:
        """Model and scale."""
        return f"{self.records[0].model} {self.records[0].scale}"

    @property
    def subject(self) -> str:
        """The subtask, or the task if there are several subtasks."""
        subtasks = {score.subtask for score in self.records[0].scores}
        return subtasks.pop() if len(subtasks) == 1 else self.records[0].task

    def chosen_records(self) -> list[Record]:
        """The runs with the best settings; all runs if there is no choice.

        Their configs say `CHOSEN` instead of the value, so that runs of other subtasks, for which
        other values were chosen, can fill the same row of a paper's table.
        """
        if self.choice is None:
            return list(self.records)
        chosen = dict.fromkeys(self.varied, CHOSEN)  # dotted keys, which come last in `flatten`
        return [replace(each, config=each.config | chosen) for each in self.choice.records]


def best_settings(records: Iterable[Record]) -> list[Choice]:
    """The best settings for each model, scale and task, of runs with validation samples.

    Scores are means over seeds. Settings with fewer seeds than others are left out, because a lucky
    seed would win. The first of equal settings wins.
    """

    def compared(record: Record) -> list[Any]:
        facts = {
            key: value
            for key, value in setup_of(record).items()
            if below(key, SWEEP_COMPARES) and not below(key, (LEARNER,))
        }
        return [record.task, record.model, facts]

    validated = [record for record in records if record.validation]
    return [_best(group) for group in _group_by(validated, compared)]


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
        if varied := differing([setup_of(record) for record in group]):
            # Means over different samples cannot be compared.
            validated = {
                tuple((score.subtask, score.length_name, score.metric) for score in each.validation)
                for each in group
            }
            choice = _best(group) if group[0].validation and len(validated) == 1 else None
            grids.append(SettingsGrid(tuple(group), tuple(varied), choice))
    return grids


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
    choice = grid.choice
    if choice is None:
        return f"the points of a grid of {', '.join(grid.varied)} stand apart: {NO_CHOICE}"
    settings = ", ".join(f"{key}={value}" for key, value in choice.settings.items())
    fewer = f", {choice.left_out} with fewer seeds left out" if choice.left_out else ""
    return f"{settings}, the best by validation of {choice.points} points{fewer}"


def _group_by(
    records: Iterable[Record], facts_of: Callable[[Record], list[Any]]
) -> list[list[Record]]:
    """Records with equal facts, in the order of all tables."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=order_of):
        key = json.dumps(facts_of(record), sort_keys=True, default=str)
        groups.setdefault(key, []).append(record)
    return list(groups.values())


def _best(records: Sequence[Record]) -> Choice:
    varied = [key for key in differing(list(map(setup_of, records))) if key != SIZE]
    points = _group_by(records, lambda record: [setup_of(record).get(key) for key in varied])
    seeds = [len({record.seed for record in point}) for point in points]
    complete = [point for point, count in zip(points, seeds, strict=True) if count == max(seeds)]
    scores = [mean(record.validation_score for record in point) for point in complete]
    best = complete[scores.index(max(scores))]
    return Choice(
        settings={key: setup_of(best[0]).get(key) for key in varied},
        score=max(scores),
        points=len(complete),
        left_out=len(points) - len(complete),
        records=tuple(best),
    )
