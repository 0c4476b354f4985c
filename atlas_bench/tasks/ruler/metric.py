"""RULER's two string-match metrics of one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def clean(output: str) -> str:
    """The answer as RULER looks at it: control characters are newlines, the ends are stripped."""
    return _CONTROL.sub("\n", output.strip()).strip()


def string_match_all(references: Sequence[str], output: str) -> float:
    """The share of the references that stand in the answer, in any case.

    For one answer, lm-eval's ``string_match_part`` gives this number too.
    """
    return sum(_found(references, output)) / len(references)


def string_match_part(references: Sequence[str], output: str) -> float:
    """1 if any reference stands in the answer: RULER's metric of its question answering tasks."""
    return float(any(_found(references, output)))


def _found(references: Sequence[str], output: str) -> list[bool]:
    said = clean(output).lower()
    return [reference.lower() in said for reference in references]
