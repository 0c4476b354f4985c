"""RULER's two string-match metrics of one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def clean(output: str) -> str:
    """The answer as RULER scores it: control characters become newlines, the ends are stripped."""
    return _CONTROL.sub("\n", output.strip()).strip()


def string_match_all(references: Sequence[str], output: str) -> float:
    """The share of the references that the answer contains, ignoring case.

    For one answer, lm-eval's ``string_match_part`` gives this number too.
    """
    return sum(_found(references, output)) / len(references)


def string_match_part(references: Sequence[str], output: str) -> float:
    """1 if the answer contains any reference: RULER's metric for question answering."""
    return float(any(_found(references, output)))


def _found(references: Sequence[str], output: str) -> list[bool]:
    answer = clean(output).lower()
    return [reference.lower() in answer for reference in references]
