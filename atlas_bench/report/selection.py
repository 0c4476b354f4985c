"""A sweep's best settings, by validation samples alone; test scores are looked at afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from atlas_bench.report.records import Record, is_share, read_record
from atlas_bench.report.rows import differing, order_of, setup_of

# What is compared, so that each of it has settings of its own; the rest is there to choose from.
COMPARED = ("model.name", "scale", "task", "text")
# But of a network that a task lets learn: its size and optimizer are in the record's model.
CHOSEN = ("task.learner",)
FOLLOWS = ("name", "parameters")  # from other keys


@dataclass(frozen=True)
class Choice:
    """The point of a grid that one model has its best validation score at."""

    model: str
    scale: str
    task: str
    settings: dict[str, Any]  # of what the grid varies, e.g. {"training.learning_rate": 0.004}
    score: float  # on validation samples, mean over the seeds
    points: int  # of the grid, with as many seeds as this one
    records: tuple[Record, ...]  # one for each seed


def objective(path: Path) -> float | None:
    """`validation_score` of the record at ``path``."""
    return validation_score(read_record(path))


def validation_score(record: Record) -> float | None:
    """Mean over subtasks and lengths of the first metric, negative where lower is better.

    None for a run without validation samples.
    """
    if not record.validation:
        return None
    metric = record.validation[0].metric
    value = mean(score.value for score in record.validation if score.metric == metric)
    return value if is_share(metric) else -value


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
        records=tuple(best),
    )


def _mean_score(records: Sequence[Record]) -> float:
    return mean(validation_score(record) for record in records)


def _is_compared(key: str) -> bool:
    return _below(key, COMPARED) and not _below(key, CHOSEN)


def _below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _as_key(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True, default=str)
