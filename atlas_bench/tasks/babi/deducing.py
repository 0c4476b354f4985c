"""Stories to draw a conclusion from: qa15 (deduction), qa16 (induction), qa20 (motives).

Rules and numbers are measured on the real training files. What is told next is drawn until it is
possible, which decides the order of the statements as it does in the data.
"""

from __future__ import annotations

import random

from atlas_bench.tasks.babi.stories import (
    ANIMALS,
    COLORED,
    COLORS,
    FEARFUL,
    GETS,
    MOTIVATED,
    MOTIVES,
    MOVES,
    PLURALS,
    Query,
    Statement,
    Story,
)

QUESTIONS_ABOUT_FEARS = 4
# qa16: how many others are of the kind of the one asked about; in the data never two
OTHERS_ALIKE = (1, 3, 4)


def fears(rng: random.Random) -> Story:
    """qa15: whom each species fears and who is of which species, a species before its members."""
    rules: dict[str, tuple[str, int]] = {}  # species: feared species, statement
    members: dict[str, tuple[str, int]] = {}  # name: species, statement
    lines: list[Statement | Query] = []
    while len(lines) < len(PLURALS) + len(FEARFUL):
        species = rng.choice(list(PLURALS))
        if rng.random() < 0.5:
            if species not in rules:
                feared = rng.choice([other for other in PLURALS if other != species])
                rules[species] = (feared, len(lines))
                many = PLURALS[species].capitalize()
                lines.append(Statement(f"{many} are afraid of {PLURALS[feared]}."))
        else:
            name = rng.choice(FEARFUL)
            if name not in members and species in rules:
                members[name] = (species, len(lines))
                lines.append(Statement(f"{name} is a {species}."))
    for _ in range(QUESTIONS_ABOUT_FEARS):
        name = rng.choice(FEARFUL)
        species, told = members[name]
        feared, rule = rules[species]
        lines.append(Query(f"What is {name.lower()} afraid of?", feared, (told, rule)))
    return Story(tuple(lines))


def colors(rng: random.Random) -> Story:
    """qa16: the kind and then the color of each, but for the last color, which is asked for.

    A third of the published stories give two colors to one kind; here each kind has one.
    """
    while True:
        color_of = {animal: rng.choice(COLORS) for animal in ANIMALS}
        kind = {name: rng.choice(ANIMALS) for name in COLORED}
        told: dict[str, list[int]] = {name: [] for name in COLORED}
        lines: list[Statement | Query] = []
        while len(lines) < 2 * len(COLORED) - 1:
            name = rng.choice([name for name in COLORED if len(told[name]) < 2])
            what = color_of[kind[name]] if told[name] else f"a {kind[name]}"
            told[name].append(len(lines))
            lines.append(Statement(f"{name} is {what}."))
        (asked,) = (name for name in COLORED if len(told[name]) < 2)
        alike = [name for name in COLORED if name != asked and kind[name] == kind[asked]]
        if len(alike) in OTHERS_ALIKE:
            break
    latest = max(alike, key=lambda name: told[name][1])
    supports = (told[asked][0], *told[latest])
    query = Query(f"What color is {asked}?", color_of[kind[asked]], supports)
    return Story((*lines, query))


def motives(rng: random.Random) -> Story:
    """qa20: each is in a state, goes where it is mended and takes what mends it, if nobody has it.

    A question after every statement, about the person it tells of. No story of the data has all
    four in one state.
    """
    state: dict[str, str] = {}
    while len(set(state.values())) < 2:
        state = {name: rng.choice(list(MOTIVES)) for name in MOTIVATED}
    steps = dict.fromkeys(MOTIVATED, 0)
    told_state: dict[str, int] = {}
    taken: set[str] = set()
    lines: list[Statement | Query] = []
    while True:
        able = [
            name
            for name in MOTIVATED
            if steps[name] < 2 or (steps[name] == 2 and MOTIVES[state[name]][1] not in taken)
        ]
        if not able:
            return Story(tuple(lines))
        name = rng.choice(able)
        place, thing = MOTIVES[state[name]]
        asked = name.lower()
        if steps[name] == 0:
            told_state[name] = len(lines) // 2
            statement, question = f"{name} is {state[name]}.", f"Where will {asked} go?"
        elif steps[name] == 1:
            statement = f"{name} {rng.choice(MOVES)} the {place}."
            question = f"Why did {asked} go to the {place}?"
        else:
            statement = f"{name} {rng.choice(GETS)} the {thing} there."
            question = f"Why did {asked} get the {thing}?"
            taken.add(thing)
        answer = state[name] if steps[name] else place
        lines += [Statement(statement), Query(question, answer, (told_state[name],))]
        steps[name] += 1
