"""The words RULER's samples are made of, and which keys and values training never sees.

Our own lists: RULER takes its words from the package wonderwords (912 adjectives, 6,782 nouns). A
short list has a reason: every word can be one token of a vocabulary of a thousand.
"""

from __future__ import annotations

import random
import uuid

_ADJECTIVES = """
amber ample arctic autumn azure bitter blue bold brass brave bright brisk bronze calm candid
clever cold copper cosmic crimson curious daring deep distant dusty eager earnest eastern empty
fabled faint fierce foggy frosty frozen gentle giant golden grand green grey hasty hidden hollow
humble idle ivory jolly keen kind lively lonely loyal lucky mellow mild misty narrow neat noble
northern patient plain polite proud purple quick quiet rapid rough round rustic scarlet serene
sharp silent silver solid southern steady
"""
_NOUNS = """
acorn anchor antler arrow atlas bakery ballad banner barley barrel basket beacon beaver bell
bench birch blanket blossom bonnet bottle boulder branch bridge bucket buffalo bugle cabin
cactus camel candle canoe canvas canyon carpet castle cavern cedar cellar chimney clover cobbler
comet compass cottage cradle crane crater cyclone dolphin donkey dragon drum eagle engine falcon
feather fern fiddle flannel flute forest fountain fox galaxy gazelle ginger glacier goblet goose
grove guitar hammer hammock harbor harvest hazel hedge helmet heron honey hornet island jasmine
jewel juniper kayak kettle kite ladder lagoon lantern lemon lever lily lizard lobster magnet
mantle maple meadow melon mirror muffin needle nickel nutmeg orchard otter oyster paddle pebble
pepper piano pigeon pillow pirate pocket prairie pulley pumpkin quilt rabbit radish raven ribbon
river rocket sapphire
"""
ADJECTIVES, NOUNS = tuple(_ADJECTIVES.split()), tuple(_NOUNS.split())
WORDS = (*ADJECTIVES, *NOUNS)
HELD_OUT_EVERY = 7  # a value or uuid that 7 divides is only ever asked about in evaluation

_KEYS = [(a, n) for a in range(len(ADJECTIVES)) for n in range(len(NOUNS))]
# Half of the pairs each: training meets every word of a held-out key, never the two together.
KEYS = {
    split: tuple(f"{ADJECTIVES[a]}-{NOUNS[n]}" for a, n in _KEYS if (a + n) % 2 == odd)
    for split, odd in (("train", 1), ("test", 0))
}
# How many words there are of one part, of at most two, and of at most three.
TIERS = (
    len(WORDS),
    len(WORDS) + len(_KEYS),
    len(WORDS) + len(_KEYS) + len(_KEYS) * len(NOUNS),
)


def compound(index: int) -> str:
    """Word number ``index`` of 1.3 million: the list itself, then ``a-n`` pairs, then ``a-n-n``.

    Tasks that need more different words than the list has go on with these.
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
