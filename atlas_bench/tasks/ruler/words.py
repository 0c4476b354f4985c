"""The words of RULER's samples (words.yaml), and the keys and values that training never sees."""

from __future__ import annotations

import random
import uuid
from importlib.resources import files

import yaml

_LISTS = yaml.safe_load(files(__package__).joinpath("words.yaml").read_text("utf-8"))
ADJECTIVES, NOUNS = tuple(_LISTS["adjectives"]), tuple(_LISTS["nouns"])
WORDS = (*ADJECTIVES, *NOUNS)
HELD_OUT_EVERY = 7  # a number or uuid that is divisible by 7 appears in evaluation only

_KEYS = [(a, n) for a in range(len(ADJECTIVES)) for n in range(len(NOUNS))]
# Each split has half of the pairs: training sees every word of a held-out key, but never both.
KEYS = {
    split: tuple(f"{ADJECTIVES[a]}-{NOUNS[n]}" for a, n in _KEYS if (a + n) % 2 == odd)
    for split, odd in (("train", 1), ("test", 0))
}
# The numbers of words with one part, with at most two and with at most three.
TIERS = (
    len(WORDS),
    len(WORDS) + len(_KEYS),
    len(WORDS) + len(_KEYS) + len(_KEYS) * len(NOUNS),
)


def compound(index: int) -> str:
    """Word number ``index`` of 1.3 million: the list itself, then pairs ``a-n``, then ``a-n-n``.

    They are for tasks that need more different words than the list has.
    """
    if index < TIERS[0]:
        return WORDS[index]
    if index < TIERS[1]:
        adjective, noun = divmod(index - TIERS[0], len(NOUNS))
        return f"{ADJECTIVES[adjective]}-{NOUNS[noun]}"
    pair, last = divmod(index - TIERS[1], len(NOUNS))
    adjective, noun = divmod(pair, len(NOUNS))
    return f"{ADJECTIVES[adjective]}-{NOUNS[noun]}-{NOUNS[last]}"


def draw(kind: str, split: str, rng: random.Random) -> str:
    """A random ``words`` key, 7-digit ``numbers`` value or version 4 ``uuids`` of a split."""
    if kind == "words":
        return rng.choice(KEYS[split])
    while True:
        if kind == "numbers":
            number = rng.randint(1_000_000, 9_999_999)
            text = str(number)
        else:
            drawn = uuid.UUID(int=rng.getrandbits(128), version=4)
            number, text = drawn.int, str(drawn)
        if (number % HELD_OUT_EVERY == 0) == (split == "test"):
            return text
