"""Which runs fill one row of a paper's table together.

More than the seeds of a row of our own tables: where a model is trained anew for every subtask, as
in MAD or fine-tuned BABILong, a row is made of many runs, set up alike but for what they are asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.rows import differing, order_of, said, setup_of

# What a run was asked, and what follows from that: the vocabulary of MAD's cases differs.
ASKED = ("task.subtask", "task.subtasks", "task.change", "task.target", "parameters")


@dataclass
class Pool:
    """Runs of one model at one scale; none has a score that another of its seed has."""

    records: list[Record]
    mark: int | None = None  # number of the note that tells this pool from others of its name
    note: str | None = None

    @property
    def model(self) -> str:
        return self.records[0].model

    @property
    def scale(self) -> str:
        return self.records[0].scale

    @property
    def name(self) -> str:
        """Model and scale, and the number of the note where there is one."""
        name = f"{self.model} {self.scale}"
        return name if self.mark is None else f"{name} [{self.mark}]"

    @property
    def by_seed(self) -> dict[int, list[Record]]:
        found: dict[int, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.seed, []).append(record)
        return found

    def takes(self, record: Record) -> bool:
        """Whether ``record`` is set up like the others and adds something to its seed's scores."""
        first = self.records[0]
        return (
            (first.model, first.scale) == (record.model, record.scale)
            and not differing([_setup(first), _setup(record)])
            and not any(
                _cells(other) & _cells(record)
                for other in self.records
                if other.seed == record.seed
            )
        )


def pool_runs(records: Iterable[Record]) -> list[Pool]:
    """Pools in the order of all tables: by task, model, size and start."""
    pools: list[Pool] = []
    for record in sorted((record for record in records if record.scores), key=order_of):
        pool = next((pool for pool in pools if pool.takes(record)), None)
        if pool is None:
            pools.append(Pool([record]))
        else:
            pool.records.append(record)
    return pools


def tell_apart(pools: list[Pool]) -> None:
    """Number those that share a name, with a note that says in what they differ."""
    number = 0
    for pool in pools:
        twins = [each for each in pools if (each.model, each.scale) == (pool.model, pool.scale)]
        if len(twins) == 1:
            continue
        number += 1
        setups = [_setup(twin.records[0]) for twin in twins]
        own = _setup(pool.records[0])
        pool.mark = number
        facts = said({key: own.get(key) for key in differing(setups)})
        path = pool.records[0].path
        pool.note = f"[{number}] {facts}" + (f" ({path.parent})" if path else "")


def _setup(record: Record) -> dict[str, Any]:
    facts = setup_of(record) | {"tokenizer": record.tokenizer.get("fingerprint")}
    return {key: value for key, value in facts.items() if key not in ASKED}


def _cells(record: Record) -> set[tuple[str, str, str]]:
    return {(score.subtask, score.length_name, score.metric) for score in record.scores}
