"""The settings that decide a run's numbers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

# A resumed run may differ in these: they say where a run is and logs, not what it computes.
NOT_IDENTITY = ("resume", "logger", "output_dir")


def as_dict(settings: Any) -> dict[str, Any]:
    """Settings as plain containers, for files and trackers."""
    return asdict(settings)


def first_difference(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> str:
    """A sentence on the first key that decides numbers and differs; "" if there is none."""
    for key in {**given, **saved}:
        if not prefix and key in NOT_IDENTITY:
            continue
        before, now = saved.get(key), given.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            if difference := first_difference(before, now, f"{prefix}{key}."):
                return difference
        elif json.dumps(before, default=str) != json.dumps(now, default=str):
            return f"{prefix}{key} was {before} there and is {now} here"
    return ""
