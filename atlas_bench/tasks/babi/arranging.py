"""Stories of things beside and inside each other: qa17 (positions), qa18 (sizes), qa19 (paths).

Rules and numbers are measured on the real training files.
"""

from __future__ import annotations

import itertools
import random

from atlas_bench.tasks.babi.stories import (
    CONTAINERS,
    PLACES,
    SHAPES,
    SWEETS,
    Query,
    Statement,
    Story,
)
from atlas_bench.tasks.babi.telling import NAMES_MIDDLE, OPPOSITE

# The step, on a grid, that each word is.
SIDES = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}
WAYS = {"north": (0, 1), "south": (0, -1), "west": (-1, 0), "east": (1, 0)}
QUESTIONS_ABOUT_POSITIONS = 8
QUESTIONS_ABOUT_SIZES = 5
SIZE_ODDS = 4  # weight of the first statement in the draw; each later one weighs 1 more
SIZES_AT_A_TIME = 5  # statements; as many again while no question follows from them


def positions(rng: random.Random) -> Story:
    """qa17: two things, each one step from a third; asked how the two lie to each other."""
    first, middle, second = rng.sample(SHAPES, 3)
    side = dict(zip((first, second), rng.sample(list(SIDES), 2), strict=True))
    lines: list[Statement | Query] = []
    for thing, word in side.items():
        if rng.random() < NAMES_MIDDLE:
            lines.append(Statement(f"The {middle} is {_opposite_side(word)} the {thing}."))
        else:
            lines.append(Statement(f"The {thing} is {word} the {middle}."))
    options: dict[bool, list[Query]] = {True: [], False: []}
    for (one, other), word in itertools.product(((first, second), (second, first)), SIDES):
        (x, y), (to_x, to_y), (way_x, way_y) = SIDES[side[one]], SIDES[side[other]], SIDES[word]
        holds = (x - to_x) * way_x + (y - to_y) * way_y > 0
        supports = (0, 1) if one == first else (1, 0)
        text = f"Is the {one} {word} the {other}?"
        options[holds].append(Query(text, "yes" if holds else "no", supports))
    for _ in range(QUESTIONS_ABOUT_POSITIONS):
        lines.append(rng.choice(options[rng.random() < 0.5]))
    return Story(tuple(lines))


def _opposite_side(word: str) -> str:
    x, y = SIDES[word]
    return next(other for other, step in SIDES.items() if step == (-x, -y))


def sizes(rng: random.Random) -> Story:
    """qa18: pairs of things, the bigger and the smaller; asked about two pairs that share one."""
    by_size = [*SWEETS, *rng.sample(CONTAINERS, len(CONTAINERS))]
    told: list[tuple[str, str]] = []  # bigger, smaller
    lines: list[Statement | Query] = []
    # statements with another that goes on to something smaller, and to something bigger
    down: list[tuple[int, int]] = []
    up: list[tuple[int, int]] = []
    while not down:
        for _ in range(SIZES_AT_A_TIME):
            small, big = (by_size[i] for i in sorted(rng.sample(range(len(by_size)), 2)))
            told.append((big, small))
            bigger = rng.random() < 0.5
            text = f"The {big} is bigger than the {small}."
            lines.append(Statement(text if bigger else f"The {small} fits inside the {big}."))
        down = _first_partners([(small, big) for big, small in told], [big for big, _ in told])
        up = _first_partners(told, [small for _, small in told])
    for _ in range(QUESTIONS_ABOUT_SIZES):
        yes = rng.random() < 0.5
        pairs = down if yes else up
        odds = [SIZE_ODDS + one for one, _ in pairs]
        one, other = supports = rng.choices(pairs, odds)[0]
        # yes: from the big end of one down to the small end of the other; no: asked upwards
        x, y = (told[one][0], told[other][1]) if yes else (told[one][1], told[other][0])
        bigger = rng.random() < 0.5
        text = f"Is the {x} bigger than the {y}?" if bigger else f"Does the {y} fit in the {x}?"
        lines.append(Query(text, "yes" if yes else "no", supports))
    return Story(tuple(lines))


def _first_partners(told: list[tuple[str, str]], starts: list[str]) -> list[tuple[int, int]]:
    """Each statement's number with that of the first that starts where it ends."""
    return [(i, starts.index(end)) for i, (end, _) in enumerate(told) if end in starts]


# qa19: odds of the five statements, from the first to the last, to tell a part of the path
PATH_ODDS = (0.83, 0.8, 0.95, 1.15, 1.7)
# share of statements "The outer is north of the inner.", the inner being nearer the path's middle
OUTER_FIRST_ON_PATH, OUTER_FIRST = 0.56, 0.74


def path(rng: random.Random) -> Story:
    """qa19: a path of two steps, and three more places, each beside one of the path's places.

    The map is a tree; two of its outer places may fall on one spot, as they do in the data.
    """
    start, middle, end, *others = rng.sample(PLACES, len(PLACES))
    from_start, to_end = rng.sample(list(WAYS), 2)  # ways from the middle to both
    taken = {(middle, from_start), (middle, to_end)}
    taken |= {(start, OPPOSITE[from_start]), (end, OPPOSITE[to_end])}
    free = [side for side in itertools.product((start, middle, end), WAYS) if side not in taken]
    first = _lies(middle, from_start, start, OUTER_FIRST_ON_PATH, rng)
    second = _lies(middle, to_end, end, OUTER_FIRST_ON_PATH, rng)
    texts = [
        _lies(inner, way, outer, OUTER_FIRST, rng)
        for (inner, way), outer in zip(rng.sample(free, len(others)), others, strict=True)
    ]
    supports = _two_of(range(len(texts) + 2), rng)
    for number, text in sorted(zip(supports, (first, second), strict=True)):
        texts.insert(number, text)
    answer = f"{OPPOSITE[from_start][0]},{to_end[0]}"
    query = Query(f"How do you go from the {start} to the {end}?", answer, supports)
    return Story((*map(Statement, texts), query))


def _lies(inner: str, way: str, outer: str, outer_first: float, rng: random.Random) -> str:
    if rng.random() < outer_first:
        return f"The {outer} is {way} of the {inner}."
    return f"The {inner} is {OPPOSITE[way]} of the {outer}."


def _two_of(numbers: range, rng: random.Random) -> tuple[int, int]:
    """Two numbers of statements, in any order."""
    first = rng.choices(numbers, PATH_ODDS)[0]
    odds = [0.0 if number == first else PATH_ODDS[number] for number in numbers]
    return first, rng.choices(numbers, odds)[0]
