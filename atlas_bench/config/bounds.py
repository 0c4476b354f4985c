"""Bounds of settings, declared with the setting.

    samples: int = bounded(100, at_least=1)
    device: str = bounded("auto", one_of=("auto", "cpu", "cuda"))

`check_bounds` enforces them and the configuration reference prints them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import check_choice

LIMITS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


@dataclass(frozen=True)
class Bounds:
    """What the value of a setting may be; for a list, what each entry may be."""

    limits: Mapping[str, float]  # keys of LIMITS
    one_of: Collection[str]

    def __str__(self) -> str:
        """For instance ``at least 0 and below 1``, or ``one of auto, cpu, cuda``."""
        if self.one_of:
            return f"one of {', '.join(self.one_of)}"
        limits = (f"{name.replace('_', ' ')} {limit}" for name, limit in self.limits.items())
        return " and ".join(limits)


def bounded(default: Any, *, one_of: Collection[str] = (), **limits: float) -> Any:
    """A dataclass field with a default and bounds, with ``limits`` of LIMITS.

    A list must also have at least one entry.
    """
    metadata = {"bounds": Bounds(limits, one_of)}
    if isinstance(default, list):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_bounds(settings: Any, prefix: str = "") -> None:
    """Raise ConfigError in one sentence for the first value that is out of its bounds.

    ``settings`` is a dataclass. ``prefix`` is the beginning of its dotted keys, for instance
    ``training.``; with a prefix, dataclasses in its fields are checked too.
    """
    for each in fields(settings):
        key, value = f"{prefix}{each.name}", getattr(settings, each.name)
        bounds = each.metadata.get("bounds")
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, float) and not math.isfinite(entry):
                raise ConfigError(f"{key}={entry} is not a finite number")
        if bounds is not None and value is not None:
            _check(key, value, bounds, ", or null" if "None" in str(each.type) else "")
        if prefix and is_dataclass(value):
            check_bounds(value, f"{key}.")


def _check(key: str, value: Any, bounds: Bounds, or_null: str) -> None:
    if value == []:
        choices = f" of {', '.join(bounds.one_of)}" if bounds.one_of else ""
        raise ConfigError(f"{key} is empty; name at least one{choices}")
    for entry in value if isinstance(value, list) else [value]:
        if bounds.one_of:
            check_choice(key, entry, bounds.one_of)
        elif not all(LIMITS[name](entry, limit) for name, limit in bounds.limits.items()):
            raise ConfigError(f"{key}={entry} must be {bounds}{or_null}")
