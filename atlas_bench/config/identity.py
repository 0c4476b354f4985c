"""Which settings decide a run's numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

# What may differ between a run and its resumption: where and how it runs, not what it computes.
NOT_IDENTITY = ("resume", "logger", "output_dir")


def identity(config: dict[str, Any]) -> str:
    """A hash of everything that decides the numbers; a resumed run must have the same."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def as_dict(settings: Any) -> dict[str, Any]:
    """Plain containers, for the record and the logger."""
    return asdict(settings)


def first_difference(theirs: dict, ours: dict, prefix: str = "") -> str:
    """The first key of our config that decides numbers and is another there; "" for none."""
    for key, value in ours.items():
        if not prefix and key in NOT_IDENTITY:
            continue
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if found := first_difference(other, value, f"{prefix}{key}."):
                return found
        elif json.dumps(value, default=str) != json.dumps(other, default=str):
            return f"{prefix}{key} was {other} there and is {value} here"
    return ""
