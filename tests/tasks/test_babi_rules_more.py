"""bAbI qa11 to qa20: supporting facts and rules of the worlds, in real and generated stories."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import pytest
from babi_data import SOURCES, Source, by_story, generated, whole_stories, with_plain_verbs

from atlas_bench.tasks.babi import Question

Supports = tuple[int, ...]
Facts = Sequence[str]
CHECKED = 1000  # questions of each source


def groups(facts: Facts) -> Iterator[tuple[tuple[str, ...], str, Supports]]:
    """qa11 to qa13: (people, place, statements) of each move; a pronoun's move joins the one
    before."""
    people: tuple[str, ...] = ()
    numbers: Supports = ()
    for number, fact in enumerate(map(with_plain_verbs, facts)):
        who, place = re.fullmatch(r"(.+) move the (\w+)\.", fact).groups()
        if re.search(r" (he|she|they)$", who):
            numbers = (*numbers, number)
        else:
            people, numbers = tuple(who.split(" and ")), (number,)
        yield people, place, numbers


def visits(facts: Facts) -> dict[str, dict[int, tuple[str, int]]]:
    """qa14: person -> time -> (place, statement)."""
    times = ("yesterday", "this morning", "this afternoon", "this evening")
    found: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)
    for number, fact in enumerate(map(with_plain_verbs, facts)):
        person, place = re.search(r"(\w+) move the (\w+)", fact).groups()
        (time,) = (i for i, words in enumerate(times) if words in fact.lower())
        assert time not in found[person]
        found[person][time] = (place, number)
    return found


def relations(facts: Facts) -> list[tuple[str, str, str]]:
    """(subject, relation, object) of "The box is bigger than the chest." and the like."""
    return [RELATION.fullmatch(fact).groups() for fact in facts]


def told(facts: Facts, form: str) -> dict[str, tuple[str, int]]:
    """First word of each statement of a form -> (last word, statement)."""
    matches = [(number, re.fullmatch(form, fact)) for number, fact in enumerate(facts)]
    return {found[1]: (found[2], number) for number, found in matches if found}


RELATION = re.compile(
    r"The (.+?) (?:is )?(above|below|to the (?:left|right) of|bigger than|fits inside|\w+ of) "
    r"the (.+)\."
)
PLURALS = {"Mice": "mouse", "Sheep": "sheep", "Wolves": "wolf", "Cats": "cat"}
MEMBER, RULE, COLOR = r"(\w+) is a (\w+)\.", r"(\w+) are afraid of (\w+)\.", r"(\w+) is (\w+)\."


# supports --------------------------------------------------------------------------------------


def followed_supports(q: Question) -> bool:
    asked = q.question.strip(" ?").split()[-1]
    return q.supports == [numbers for people, _, numbers in groups(q.facts) if asked in people][-1]


def day_supports(q: Question) -> bool:
    person, place = re.match(r"Where was (\w+) before the (\w+)", q.question).groups()
    seen = visits(q.facts)[person]
    latest = max(time for time, (where, _) in seen.items() if where == place)
    return q.supports == (seen[latest][1], seen[latest - 1][1])


def fear_supports(q: Question) -> bool:
    name = q.question.split()[2].capitalize()
    species, number = told(q.facts, MEMBER)[name]
    rules = {PLURALS[many]: rule for many, (_, rule) in told(q.facts, RULE).items()}
    return q.supports == (number, rules[species])


def color_supports(q: Question) -> bool:
    kind, color = told(q.facts, MEMBER), told(q.facts, COLOR)
    asked = q.question.strip("?").split()[-1]
    own, other_kind, other_color = q.supports
    alike = {
        (kind[name][1], color[name][1])
        for name in kind
        if name != asked and kind[name][0] == kind[asked][0] and color[name][0] == q.answer
    }
    return own == kind[asked][1] and (other_kind, other_color) in alike


def position_supports(q: Question) -> bool:
    """The two facts, that of the thing named first in front."""
    told_of = [{one, other} for one, _, other in relations(q.facts)]
    first = min(set.union(*told_of) - set.intersection(*told_of), key=q.question.index)
    return q.supports == ((0, 1) if first in told_of[0] else (1, 0))


def ordered(facts: Facts) -> list[tuple[str, str]]:
    """(bigger, smaller) of each statement."""
    return [(a, b) if "bigger" in word else (b, a) for a, word, b in relations(facts)]


def size_supports(q: Question) -> bool:
    """A pair and the first told that goes on from it, to the smaller where the answer is yes."""
    found = re.search(r"the (.+?) (?:bigger than|fit in) the (.+)\?", q.question)
    one, other = found.groups() if "bigger" in q.question else found.groups()[::-1]
    pairs = [pair if q.answer == "yes" else pair[::-1] for pair in ordered(q.facts)]
    start, going_on = q.supports
    first = [i for i, pair in enumerate(pairs) if pair[0] == pairs[start][1]][0]
    return going_on == first and (pairs[start][0], pairs[first][1]) == (one, other)


def path_supports(q: Question) -> bool:
    start, end = re.findall(r"the (\w+)", q.question)
    beside = [{a, b} for a, _, b in relations(q.facts)]
    one, other = (beside[number] for number in q.supports)
    return start in one and end in other and len(one & other) == 1


def motive_supports(q: Question) -> bool:
    name = re.search(r"(?:will|did) (\w+)", q.question)[1].capitalize()
    return q.supports == (told(q.facts, COLOR)[name][1],)


SUPPORTS: dict[str, Callable[[Question], bool]] = {
    **dict.fromkeys(("qa11", "qa12", "qa13"), followed_supports),
    "qa14": day_supports,
    "qa15": fear_supports,
    "qa16": color_supports,
    "qa17": position_supports,
    "qa18": size_supports,
    "qa19": path_supports,
    "qa20": motive_supports,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("subtask", SUPPORTS)
def test_supports_follow_the_rule(subtask: str, source: Source) -> None:
    assert [q for q in source(subtask)[:CHECKED] if not SUPPORTS[subtask](q)] == []


# world rules -----------------------------------------------------------------------------------


def keeps_following(facts: Facts) -> bool:
    place: dict[str, str] = {}
    for people, to, numbers in groups(facts):
        who = "they" if len(people) > 1 else "he" if people[0] in ("John", "Daniel") else "she"
        right = len(numbers) == 1 or f" {who} " in facts[numbers[-1]]
        if not right or any(place.get(person) == to for person in people):
            return False
        place |= dict.fromkeys(people, to)
    return True


def keeps_the_day(facts: Facts) -> bool:
    """Everybody's times without a gap, and never twice in one place on end."""
    for seen in visits(facts).values():
        places = [seen[time][0] for time in sorted(seen)]
        if sorted(seen) != list(range(len(seen))) or any(
            one == other for one, other in itertools.pairwise(places)
        ):
            return False
    return True


def keeps_fears(facts: Facts) -> bool:
    members, rules = told(facts, MEMBER), told(facts, RULE)
    number_of = {PLURALS[many]: number for many, (_, number) in rules.items()}
    fearless = any(PLURALS[many] == PLURALS[what.capitalize()] for many, (what, _) in rules.items())
    after = all(number_of[species] < number for species, number in members.values())
    return len(members) == len(rules) == 4 and after and not fearless


def keeps_colors(facts: Facts) -> bool:
    kind, color = told(facts, MEMBER), told(facts, COLOR)
    (asked,) = kind.keys() - color.keys()
    alike = sum(kind[name][0] == kind[asked][0] for name in color)
    after = all(kind[name][1] < color[name][1] for name in color)
    return len(kind) == 5 and len(color) == 4 and alike in (1, 3, 4) and after


def keeps_positions(facts: Facts) -> bool:
    """Both things beside the third, and not on one side of it."""
    opposite = {"above": "below", "to the left of": "to the right of"}
    opposite |= {other: word for word, other in opposite.items()}
    (a, one, b), (c, other, d) = relations(facts)
    (middle,) = {a, b} & {c, d}
    sides = [word if of == middle else opposite[word] for of, word in ((b, one), (d, other))]
    return sides[0] != sides[1]


def keeps_sizes(facts: Facts) -> bool:
    """The sweets are the smallest, the others in one order; five statements at a time."""
    rank = {"chocolate": 0, "box of chocolates": 1}
    pairs = set(ordered(facts))
    sweet = [pair for pair in pairs if rank.keys() & {*pair}]
    small_last = all(rank.get(big, 2) > rank.get(small, 2) for big, small in sweet)
    for _ in facts:
        pairs |= {(big, less) for big, small in pairs for more, less in pairs if small == more}
    return small_last and all(big != small for big, small in pairs) and len(facts) % 5 == 0


def keeps_paths(facts: Facts) -> bool:
    """A tree of six places; nowhere two on one side."""
    opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
    sides = []
    for a, word, b in relations(facts):
        way = word.removesuffix(" of")
        sides += [(b, way), (a, opposite[way])]
    reached = {relations(facts)[0][0]}
    for _ in facts:
        for a, _, b in relations(facts):
            reached |= {a, b} if reached & {a, b} else set()
    return len(set(sides)) == 2 * len(facts) == 10 and len(reached) == 6


MENDS = {
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "bored": ("garden", "football"),
    "tired": ("bedroom", "pajamas"),
}


def keeps_motives(facts: Facts) -> bool:
    """Each is in a state, goes where it is mended, takes what mends it; each thing once."""
    steps: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        steps[fact.split()[0]].append(with_plain_verbs(fact).strip("."))
    wanted = {
        name: [
            f"{name} is {(state := done[0].split()[-1])}",
            f"{name} move the {MENDS[state][0]}",
            f"{name} get the {MENDS[state][1]} there",
        ]
        for name, done in steps.items()
    }
    taken = Counter(done[2].split()[3] for done in steps.values() if len(done) > 2)
    right = all(done == wanted[name][: len(done)] for name, done in steps.items())
    return right and max(taken.values(), default=1) == 1


RULES: dict[str, Callable[[Facts], bool]] = {
    **dict.fromkeys(("qa11", "qa12", "qa13"), keeps_following),
    "qa14": keeps_the_day,
    "qa15": keeps_fears,
    "qa16": keeps_colors,
    "qa17": keeps_positions,
    "qa18": keeps_sizes,
    "qa19": keeps_paths,
    "qa20": keeps_motives,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("subtask", RULES)
def test_stories_keep_the_rules_of_their_world(subtask: str, source: Source) -> None:
    stories = whole_stories(source(subtask)[:CHECKED])
    assert [story for story in stories if not RULES[subtask](story)] == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_day_is_told_out_of_order(source: Source) -> None:
    for story in by_story(source("qa14")[:CHECKED]):
        before = 0
        for q in story:
            assert keeps_the_day(q.facts)  # no gaps when it is asked
            block = range(before, len(q.facts))
            if len(block) == 2:
                for seen in visits(q.facts).values():
                    numbers = [number for _, (_, number) in sorted(seen.items())]
                    recent = [number for number in numbers if number in block]
                    assert recent == sorted(recent, reverse=True)
            before = len(q.facts)


def test_generated_kinds_have_one_color() -> None:
    for q in generated("qa16")[:CHECKED]:
        kind, color = told(q.facts, MEMBER), told(q.facts, COLOR)
        pairs = {(kind[name][0], color[name][0]) for name in color}
        assert len(pairs) == len({one for one, _ in pairs})


@pytest.mark.parametrize("source", SOURCES)
def test_the_other_places_lie_beside_the_path(source: Source) -> None:
    for q in source("qa19")[:CHECKED]:
        pairs = [{a, b} for a, _, b in relations(q.facts)]
        path = set().union(*(pairs[number] for number in q.supports))
        assert len(path) == 3
        assert all(pair & path for pair in pairs)


@pytest.mark.parametrize(
    ("subtask", "facts"),
    [
        ("qa11", ["John went to the office.", "Then she moved to the garden."]),
        ("qa12", ["John and Mary went to the office.", "Mary and Sandra moved to the office."]),
        ("qa13", ["John and Mary went to the office.", "Then he moved to the garden."]),
        ("qa14", ["Bill went to the park yesterday.", "This morning Bill went to the park."]),
        ("qa14", ["Bill went to the park yesterday.", "This evening Bill went to the school."]),
        ("qa15", ["Emily is a wolf.", "Wolves are afraid of mice."]),
        ("qa17", ["The red square is above the triangle.", "The box is above the triangle."]),
        ("qa18", 2 * ["The box fits inside the chest.", "The chest fits inside the box."]
         + ["The box is bigger than the chocolate."]),
        ("qa18", 5 * ["The box of chocolates is bigger than the chest."]),
        ("qa20", ["Jason is tired.", "Jason went to the garden."]),
    ],
)  # fmt: skip
def test_rule_checker_sees_violations(subtask: str, facts: list[str]) -> None:
    assert not RULES[subtask](facts)
