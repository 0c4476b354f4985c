"""Short forms of overrides: ``task.lengths=16k`` is a list, ``training.tokens=1M`` a number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.registry import TASKS
from atlas_bench.tasks.task import TaskSettings

UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)([kKMBG]?)")
_PLAIN = re.compile(r"[\w.,+-]+")  # no list, no quotes, no function


@cache
def annotations() -> dict[str, set[Any]]:
    """The annotations of every dotted key; tasks may share a key of different types."""
    found: dict[str, set[Any]] = {}
    for key, hint in _annotations(RunSettings, ""):
        found.setdefault(key, set()).add(hint)
    return found


def _annotations(settings: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(settings).items():
        kinds = [each for each in (hint, *get_args(hint)) if is_dataclass(each)]
        if not kinds or get_origin(hint) in (dict, list):
            yield f"{prefix}{name}", hint
            continue
        for kind in TASKS.values() if kinds[0] is TaskSettings else kinds:
            yield from _annotations(kind, f"{prefix}{name}.")


def written_out(word: str) -> str:
    """An override with a list around a single value and with numbers in digits, where its key takes
    these; any other word as it is."""
    key, _, value = word.partition("=")
    hints = annotations().get(key, set())
    if not hints or not _PLAIN.fullmatch(value) or value == "null":
        return word
    if all(get_origin(hint) is list for hint in hints):
        return f"{key}={','.join(f'[{each}]' for each in value.split(','))}"
    if all(int in (hint, *get_args(hint)) for hint in hints):
        return f"{key}={','.join(map(_in_digits, value.split(',')))}"
    return word


def _in_digits(value: str) -> str:
    match = _NUMBER.fullmatch(value)
    number = float(match[1]) * UNITS[match[2]] if match else 0.5
    return str(int(number)) if number.is_integer() else value
