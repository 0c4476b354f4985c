"""Nominal context lengths such as 16k, and their tokens in each convention."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """The meaning of a nominal length: tokens in "1k", and tokens reserved for the prompt."""

    kilo: int
    allowance: int


LONGEST_TOKENS = 100 * 2**20  # ten times the longest context of the papers

CONVENTIONS = {
    # create_tasks.py: nominal 1k is 1000 tokens, 300 of them for instruction and question
    "public": Convention(kilo=1000, allowance=300),
    # RMT/ARMT fine-tuning: segments of 512, 20 tokens for question and answer
    "finetuning": Convention(kilo=1024, allowance=20),
}


def parse_length(length: str | int, convention: str = "public") -> int:
    """Nominal tokens of ``"0k"``, ``"16k"``, ``"1M"`` or a plain number.

    Raises ValueError naming ``task.lengths`` for anything else.
    """
    match = re.fullmatch(r"(\d+)([kKmM]?)", str(length).strip())
    if match is None:
        raise ValueError(
            f"task.lengths: {length!r} is not a length; write for instance 0k, 16k, 1M or 512"
        )
    kilo = _convention(convention).kilo
    tokens = int(match[1]) * {"": 1, "k": kilo, "m": kilo * kilo}[match[2].lower()]
    if tokens > LONGEST_TOKENS:
        raise ValueError(f"task.lengths: {length} is longer than 100M, the longest that is drawn")
    return tokens


def format_length(nominal_tokens: int, convention: str = "public") -> str:
    """The short name of a nominal length: 0 -> ``0k``, 16000 -> ``16k``; the inverse of parsing."""
    kilo = _convention(convention).kilo
    if nominal_tokens and nominal_tokens % (kilo * kilo) == 0:
        return f"{nominal_tokens // (kilo * kilo)}M"
    if nominal_tokens % kilo == 0:
        return f"{nominal_tokens // kilo}k"
    return str(nominal_tokens)


def context_tokens(length: str | int, convention: str = "public") -> int:
    """Tokens of facts and noise at a nominal length; 0 for ``0k``, which means only facts.

    ``public``: nominal - 300 with 1k = 1000. ``finetuning``: nominal - 20 with 1k = 1024.
    Raises ValueError naming ``task.lengths`` when the allowance leaves nothing.
    """
    nominal = parse_length(length, convention)
    allowance = _convention(convention).allowance
    if 0 < nominal <= allowance:
        raise ValueError(
            f"task.lengths: {length} is not more than the {allowance} tokens that are reserved for "
            f"the prompt ({convention} convention); choose a longer one, or 0k for only the facts"
        )
    return max(0, nominal - allowance)


def _convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise ValueError(f"task.length_convention: {name!r} is unknown; choose from {known}")
    return CONVENTIONS[name]
