"""Parts of one-sentence messages: the nearest valid name, what another package said."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters besides tab and line feed, halves of surrogate pairs, changes of direction.
_UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def nearest(word: object, valid: Iterable[object]) -> str:
    """`` (did you mean X?)`` for the valid name closest to ``word``, or an empty string."""
    found = difflib.get_close_matches(str(word), [str(name) for name in valid], 1, 0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def check_choice(key: str, value: object, valid: Iterable[object]) -> None:
    """Raise ValueError, with the nearest valid name, where ``value`` is not one of ``valid``."""
    valid = list(valid)
    if value not in valid:
        raise ValueError(
            f"{key}={value} is not one of {', '.join(map(str, valid))}{nearest(value, valid)}"
        )


def printable(text: str) -> str:
    """``text`` without what a terminal would obey or a file could not hold."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(error: BaseException, longest: int = 200) -> str:
    """The message of an error on one line, cut after ``longest`` characters."""
    return " ".join(str(error).split())[:longest]


def cause(error: BaseException) -> str:
    """The type and the first line of an error of another package, which may go on for pages."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
