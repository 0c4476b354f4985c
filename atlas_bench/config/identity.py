"""The settings that decide a run's numbers."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

# A resumed run may differ in these: they say where and when a run writes, not what it computes.
NOT_IDENTITY = ("resume", "logger", "output_dir", "training.checkpoint_minutes")


class Difference(NamedTuple):
    """A dotted key with its values in the two configs."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.before} there and is {self.now} here"


def first_difference(
    saved: dict[str, Any], given: dict[str, Any], prefix: str = ""
) -> Difference | None:
    """The first key that decides numbers and differs."""
    for key in {**given, **saved}:
        if f"{prefix}{key}" in NOT_IDENTITY:
            continue
        before, now = saved.get(key), given.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            if difference := first_difference(before, now, f"{prefix}{key}."):
                return difference
        elif json.dumps(before, default=str) != json.dumps(now, default=str):
            return Difference(f"{prefix}{key}", before, now)
    return None
