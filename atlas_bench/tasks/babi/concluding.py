"""Solvers of the tasks that conclude something from a few statements, qa14 to qa20."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from atlas_bench.tasks.babi.arranging import SIDES, WAYS
from atlas_bench.tasks.babi.sentences import NoRule
from atlas_bench.tasks.babi.stories import MOTIVES, MOVES, PLURALS, TIMES

Positions = dict[str, tuple[int, int]]
Groups = tuple[str, ...]


def _compiled(*forms: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(form, re.IGNORECASE) for form in forms)


def _words(words: Sequence[str]) -> str:
    return "(" + "|".join(words) + ")"


def _read(text: str, forms: Sequence[re.Pattern[str]], does: str) -> tuple[int, Groups]:
    """(number of the form that ``text`` has, its words that vary); raises NoRule."""
    for number, form in enumerate(forms):
        if found := form.fullmatch(text):
            return number, found.groups()
    raise NoRule(f"no rule {does} {text!r}")


def _fact(text: str, forms: Sequence[re.Pattern[str]]) -> tuple[int, Groups]:
    return _read(text, forms, "reads")


def _asked(text: str, forms: Sequence[re.Pattern[str]]) -> tuple[int, Groups]:
    return _read(text, forms, "answers")


_VISIT = _compiled(
    rf"{_words(TIMES)} (\w+) (?:{'|'.join(MOVES)}) the (\w+)\.",
    rf"(\w+) (?:{'|'.join(MOVES)}) the (\w+) {_words(TIMES)}\.",
)
_WHERE_BEFORE = _compiled(r"Where was (\w+) before the (\w+)\?")


def _place_before(facts: Sequence[str], question: str) -> str:
    """qa14: of two visits to one place, the later."""
    _, (person, place) = _asked(question, _WHERE_BEFORE)
    place_at: dict[int, str] = {}
    for fact in facts:
        last, words = _fact(fact, _VISIT)
        who, where, time = words if last else (*words[1:], words[0])
        if who == person:
            place_at[TIMES.index(time.lower())] = where
    visited = [place_at[time] for time in sorted(place_at)]
    latest = max(i for i, visit in enumerate(visited) if visit == place and i > 0)
    return visited[latest - 1]


_FEARS = _compiled(r"(\w+) is a (\w+)\.", r"(\w+) are afraid of (\w+)\.")
_AFRAID = _compiled(r"What is (\w+) afraid of\?")


def _feared(facts: Sequence[str], question: str) -> str:
    """qa15: what the species of the one who is named fears."""
    singular = {many: one for one, many in PLURALS.items()}
    species: dict[str, str] = {}
    fears: dict[str, str] = {}
    for fact in facts:
        rule, (one, other) = _fact(fact, _FEARS)
        if rule:
            fears[singular[one.lower()]] = singular[other]
        else:
            species[one.lower()] = other
    _, (name,) = _asked(question, _AFRAID)
    return fears[species[name]]


_KIND_OR_COLOR = _compiled(r"(\w+) is a (\w+)\.", r"(\w+) is (\w+)\.")
_WHAT_COLOR = _compiled(r"What color is (\w+)\?")


def _color(facts: Sequence[str], question: str) -> str:
    """qa16: the color of the one of the same kind of whom both were known last."""
    kind: dict[str, str] = {}
    color: dict[str, str] = {}
    known: list[str] = []
    for fact in facts:
        is_color, (name, what) = _fact(fact, _KIND_OR_COLOR)
        (color if is_color else kind)[name] = what
        if name in kind and name in color:
            known.append(name)
    _, (asked,) = _asked(question, _WHAT_COLOR)
    return color[[name for name in known if kind[name] == kind[asked]][-1]]


def _map_of(relations: Sequence[Groups], steps: Positions) -> Positions:
    """Where each thing lies, one step from the next; the first is at (0, 0)."""
    at: Positions = {relations[0][0]: (0, 0)}
    for _ in relations:
        for one, word, other in relations:
            (x, y), sign = steps[word], 1
            if one in at:
                one, other, sign = other, one, -1
            if other in at and one not in at:
                at[one] = (at[other][0] + sign * x, at[other][1] + sign * y)
    return at


_POSITION = _compiled(rf"The (.+) is {_words(list(SIDES))} the (.+)\.")
_IS_POSITION = _compiled(rf"Is the (.+?) {_words(list(SIDES))} the (.+)\?")


def _lies_so(facts: Sequence[str], question: str) -> str:
    """qa17: strictly, in the direction asked about."""
    at = _map_of([_fact(fact, _POSITION)[1] for fact in facts], SIDES)
    _, (one, word, other) = _asked(question, _IS_POSITION)
    (x, y), (from_x, from_y), (way_x, way_y) = at[one], at[other], SIDES[word]
    return "yes" if (x - from_x) * way_x + (y - from_y) * way_y > 0 else "no"


_SIZE = _compiled(r"The (.+) is bigger than the (.+)\.", r"The (.+) fits inside the (.+)\.")
_IS_SIZE = _compiled(r"Is the (.+) bigger than the (.+)\?", r"Does the (.+) fit in the (.+)\?")


def _is_bigger(facts: Sequence[str], question: str) -> str:
    """qa18: what is bigger than a thing that is bigger than another is bigger than that."""
    pairs = set()
    for fact in facts:
        fits, (one, other) = _fact(fact, _SIZE)
        pairs.add((other, one) if fits else (one, other))
    through = {(one, small) for one, mid in pairs for big, small in pairs if big == mid}
    fits, (one, other) = _asked(question, _IS_SIZE)
    wanted = (other, one) if fits else (one, other)
    if wanted in through:
        return "yes"
    if wanted[::-1] in through:
        return "no"
    raise ValueError("no two pairs tell")


_LIES = _compiled(rf"The (\w+) is {_words(list(WAYS))} of the (\w+)\.")
_HOW_TO_GO = _compiled(r"How do you go from the (\w+) to the (\w+)\?")


def _two_steps(facts: Sequence[str], question: str) -> str:
    """qa19: through the one place that was told to be beside both."""
    relations = [_fact(fact, _LIES)[1] for fact in facts]
    at = _map_of(relations, WAYS)
    beside = {frozenset((one, other)) for one, _, other in relations}
    _, (start, end) = _asked(question, _HOW_TO_GO)
    (middle,) = (x for x in at if {frozenset((start, x)), frozenset((x, end))} <= beside)
    word_of = {step: word for word, step in WAYS.items()}
    steps = [
        word_of[at[to][0] - at[place][0], at[to][1] - at[place][1]]
        for place, to in ((start, middle), (middle, end))
    ]
    return ",".join(word[0] for word in steps)


_STEP = _compiled(
    rf"(\w+) is {_words(list(MOTIVES))}\.",
    rf"(\w+) (?:{'|'.join(MOVES)}) the (\w+)\.",
    r"(\w+) (?:got|grabbed|took|picked up) the (\w+) there\.",
)
_MOTIVE = _compiled(
    r"Where will (\w+) go\?", r"Why did (\w+) go to the (\w+)\?", r"Why did (\w+) get the (\w+)\?"
)


def _motive(facts: Sequence[str], question: str) -> str:
    """qa20: the place where the person's state is mended, or the state."""
    state = {}
    for fact in facts:
        step, (name, what) = _fact(fact, _STEP)
        if step == 0:
            state[name.lower()] = what
    form, (name, *what) = _asked(question, _MOTIVE)
    mends = MOTIVES[state[name]]
    if what and mends[form - 1] != what[0]:
        raise ValueError("not what mends this state")
    return state[name] if what else mends[0]


# Each rule raises KeyError, IndexError or ValueError where the facts do not answer.
CONCLUSIONS: dict[str, Callable[[Sequence[str], str], str]] = {
    "qa14": _place_before,
    "qa15": _feared,
    "qa16": _color,
    "qa17": _lies_so,
    "qa18": _is_bigger,
    "qa19": _two_steps,
    "qa20": _motive,
}
