"""The sentences of worlds in which people move and handle objects: one parser of their forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from atlas_bench.tasks.babi.stories import DROPS, GETS, GIVES, MOVES, NEXT


class NoRule(ValueError):
    """A statement or a question that has none of the forms of its task."""


def any_of(words: Sequence[str]) -> str:
    """A regular expression for one of the words."""
    return "(?:" + "|".join(words) + ")"


_FORMS = tuple(
    (kind, re.compile(form))
    for kind, form in (
        ("move", rf"(\w+) {any_of(MOVES)} the (\w+)\."),
        ("move together", rf"(\w+) and (\w+) {any_of(MOVES)} the (\w+)\."),
        ("move on", rf"{any_of(NEXT)} (?:he|she|they) {any_of(MOVES)} the (\w+)\."),
        ("get", rf"(\w+) {any_of(GETS)} the (\w+)(?: there)?\."),
        ("drop", rf"(\w+) {any_of(DROPS)} the (\w+)(?: there)?\."),
        ("give", rf"(\w+) {any_of(GIVES)} the (\w+) to (\w+)\."),
        ("either", r"(\w+) is either in the (\w+) or the (\w+)\."),
        ("in", r"(\w+) is in the (\w+)\."),
        ("not in", r"(\w+) is (?:no longer|not) in the (\w+)\."),
        ("lies", r"The (\w+) is (north|south|east|west) of the (\w+)\."),
    )
)


@lru_cache(maxsize=10_000)
def parse(statement: str) -> tuple[str, ...]:
    """The kind of a statement and its words that vary, in their order.

    "move on" has a pronoun and so the place alone; "move together" two people and the place; "give"
    the giver, the object and the receiver. Raises NoRule for any other sentence.
    """
    for kind, form in _FORMS:
        if match := form.fullmatch(statement.strip()):
            return kind, *match.groups()
    raise NoRule(f"no rule reads {statement!r}")
