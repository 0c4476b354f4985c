"""Variable tracking (VT): which variables have a value, directly or through other variables.

One chain of four hops among repeated lines, after one solved example (RULER, variable_tracking.py;
Apache-2.0). The sentences of the prompt are RULER's, including its misprint.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from atlas_bench.seeding import seeded
from atlas_bench.tasks.ruler.needles import REPEATED
from atlas_bench.tasks.ruler.writing import Frame
from atlas_bench.tasks.task import Question
from atlas_bench.text.tokenizer import Tokenizer

NEW_TOKENS = 30
HOPS = 4
EXAMPLE_TOKENS = 500 - NEW_TOKENS  # at most, as in the repository
EXAMPLE_FROM = 1024  # an example does not fit in shorter prompts; RULER has no prompts so short

HEADER = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
QUESTION = "Question: Find all variables that are assigned the value {value} in the text above."
PREFIX = (
    "Answer: According to the chain(s) of variable assignment in the text above, {count} variables "
    "are assgined the value {value}, they are:"
)


def vt_sample(length: int, parts: Sequence[object], frame: Frame) -> Question:
    """The sample of ``length`` tokens, 30 for the answer included, that the seed ``parts`` decide.

    ``depth`` is the mean of the five assignments. Raises ValueError naming ``task.lengths``.
    """
    rng = seeded(*parts)
    example = _example(frame.tokenizer, rng) if length >= EXAMPLE_FROM else ""
    names, value = _names(5, rng), str(rng.randint(10_000, 99_999))
    asked = QUESTION.format(value=value)
    lines = [frame.encode("\n" + line) for line in chain(names, value)]
    used = sum(map(len, lines))
    buffer, question_ids = frame.begin(
        "ruler_vt",
        length,
        NEW_TOKENS,
        start=example + HEADER,
        asked=f"\n{asked} {PREFIX.format(count=len(names), value=value)}",
        needed=used,
    )
    unit = frame.tokenizer.encode_phrase("\n" + REPEATED)
    units = (buffer.room - used) // len(unit)
    places = _places(units, rng)
    for place in range(units + 1):
        for line, chosen in zip(lines, places, strict=True):
            if chosen == place:
                buffer.add(line)
        if place < units:
            buffer.add(unit)
    depth = sum(places) / len(places) / max(1, units)
    return Question(buffer.ids, question_ids, asked, tuple(names), depth)


def chain(names: Sequence[str], value: str) -> list[str]:
    """Assignments of a value to the first variable, and of each variable to the next."""
    hops = [f"VAR {new} = VAR {old}" for old, new in zip(names, names[1:], strict=False)]
    return [f"VAR {names[0]} = {value}", *hops]


def _example(tokenizer: Tokenizer, rng: random.Random) -> str:
    """A short solved problem with names of three letters."""
    names, value = _names(3, rng), str(rng.randint(10_000, 99_999))
    answer = f"{PREFIX.format(count=len(names), value=value)} {' '.join(names)}"
    end = f"\n{QUESTION.format(value=value)} {answer}\n\n"
    told = chain(names, value)
    used = sum(len(tokenizer.encode("\n" + line)) for line in [HEADER, *told, end])
    units = max(0, EXAMPLE_TOKENS - used) // len(tokenizer.encode_phrase("\n" + REPEATED))
    lines = []
    places = _places(units, rng)
    for place in range(units + 1):
        lines += [line for line, chosen in zip(told, places, strict=True) if chosen == place]
        lines += [REPEATED] if place < units else []
    return HEADER + "".join("\n" + line for line in lines) + end


def _names(letters: int, rng: random.Random) -> list[str]:
    """Different names for the variables of a chain."""
    names: dict[str, None] = {}
    while len(names) <= HOPS:
        names["".join(rng.choices(string.ascii_uppercase, k=letters))] = None
    return list(names)


def _places(units: int, rng: random.Random) -> list[int]:
    """The number of lines before each assignment, in order; different ones if possible."""
    if units > HOPS:
        return sorted(rng.sample(range(units), HOPS + 1))
    return sorted(rng.randint(0, units) for _ in range(HOPS + 1))
