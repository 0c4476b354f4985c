"""Counting words: the common (CWE) and the frequent (FWE) ones of a long list.

Frequencies and prompts: RULER, common_words_extraction.py and freq_words_extraction.py
(Apache-2.0). The sentences of the prompts are RULER's; the words are ours.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from atlas_bench.seeding import seeded
from atlas_bench.tasks.ruler.words import TIERS, WORDS, compound
from atlas_bench.tasks.ruler.writing import Frame, encoded
from atlas_bench.tasks.task import Question
from atlas_bench.text.tokenizer import Tokenizer

CWE_NEW_TOKENS = 120
COMMON = 10  # words of the answer
CWE_HEADER = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often."
)
CWE_QUESTION = "Question: What are the 10 most common words in the above list?"
CWE_PREFIX = "Answer: The top 10 words that appear most often in the list are:"

FWE_NEW_TOKENS = 50
FWE_HEADER = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words."
)
FWE_QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three "
    "most frequently appeared words in the above coded text?"
)
FWE_PREFIX = (
    "Answer: According to the coded text above, the three most frequently appeared words are:"
)
DOTS = "..."  # in place of the most frequent word
LETTERS = 6
TOKENS_PER_WORD = 50  # tokens of the nominal length for each word of the vocabulary
ZETA_2 = math.pi**2 / 6


@dataclass(frozen=True)
class Frequencies:
    """How often a common and another word appears, in the list and in the solved example."""

    least_length: int
    often: int
    seldom: int
    example_words: int = 0
    example_often: int = 0
    example_seldom: int = 0

    def times(self, index: int) -> int:
        """How often word number ``index`` of the list appears; the common words are first."""
        return self.often if index < COMMON else self.seldom

    def bound(self, length: int, tokenizer: Tokenizer) -> int:
        """An upper bound of the tokens of prompt, example and the shortest list."""
        entry = len(tokenizer.encode(f" {length}."))
        entry += max(len(tokenizer.encode(" " + word)) for word in WORDS)
        prompt = len(tokenizer.encode(f"{CWE_HEADER}\n{CWE_QUESTION} {CWE_PREFIX}"))
        entries = COMMON * self.often + self.seldom
        if self.example_words:
            entries += COMMON * (self.example_often + 1)
            entries += (self.example_words - COMMON) * self.example_seldom
            prompt *= 2
        return CWE_NEW_TOKENS + prompt + entries * entry


# The first two are RULER's. The last is for prompts that are too short for them; RULER has none.
FREQUENCIES = (
    Frequencies(4096, 30, 3, example_words=40, example_often=10, example_seldom=3),
    Frequencies(0, 6, 1, example_words=20, example_often=3, example_seldom=1),
    Frequencies(0, 3, 1),
)


def cwe_frequencies(length: int, tokenizer: Tokenizer) -> Frequencies:
    """The first of ``FREQUENCIES`` that fits. Raises ValueError if none does."""
    for frequencies in FREQUENCIES:
        if length >= max(frequencies.least_length, frequencies.bound(length, tokenizer)):
            return frequencies
    needed = FREQUENCIES[-1].bound(length, tokenizer)
    raise ValueError(
        f"task.lengths: {length} tokens are too few for ruler_cwe, which needs {needed} with this "
        f"tokenizer, {CWE_NEW_TOKENS} for the answer included"
    )


def cwe_sample(
    length: int, parts: Sequence[object], frame: Frame, frequencies: Frequencies
) -> Question:
    """The sample of ``length`` tokens, 120 for the answer included, that the seed ``parts`` decide.

    ``frequencies`` are those of ``cwe_frequencies`` for this length, or rarer ones.
    """
    rng = seeded(*parts)
    buffer, question_ids = frame.begin(
        "ruler_cwe",
        length,
        CWE_NEW_TOKENS,
        start=_cwe_example(frequencies, rng) + CWE_HEADER,
        asked=f"\n{CWE_QUESTION} {CWE_PREFIX}",
    )
    for words in TIERS:
        most = COMMON + buffer.room // (3 * frequencies.seldom)  # an entry has 3 tokens or more
        drawn = rng.sample(range(words), min(words, most))
        texts = (" " + compound(index) for index in drawn)
        pieces, numbers = _fitting(texts, frame.tokenizer, buffer.room, frequencies)
        if len(pieces) < len(drawn):
            break
    entries = [index for index in range(len(pieces)) for _ in range(frequencies.times(index))]
    rng.shuffle(entries)
    for number, index in zip(numbers, entries, strict=True):
        buffer.add(number)
        buffer.add(pieces[index])
    common = tuple(compound(index) for index in drawn[:COMMON])
    return Question(buffer.ids, question_ids, CWE_QUESTION, common)


def _fitting(
    words: Iterable[str], tokenizer: Tokenizer, budget: int, frequencies: Frequencies
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first words that fit with all their repetitions, and the numbers of all entries."""
    labels = encoded(_labels(), tokenizer)
    pieces: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    for index, word in enumerate(encoded(words, tokenizer)):
        own = list(islice(labels, frequencies.times(index)))
        budget -= len(own) * len(word) + sum(map(len, own))
        if budget < 0:
            break
        pieces.append(word)
        numbers += own
    return pieces, numbers


def _labels() -> Iterator[str]:
    return ("\n1." if number == 1 else f" {number}." for number in count(1))


def _cwe_example(frequencies: Frequencies, rng: random.Random) -> str:
    """A short solved list, or an empty text."""
    drawn = [compound(index) for index in rng.sample(range(TIERS[0]), frequencies.example_words)]
    entries = drawn[:COMMON] * frequencies.example_often
    entries += drawn[COMMON:] * frequencies.example_seldom
    if not entries:
        return ""
    rng.shuffle(entries)
    told, answer = (
        " ".join(f"{number}. {word}" for number, word in enumerate(words, 1))
        for words in (entries, drawn[:COMMON])
    )
    return f"{CWE_HEADER}\n{told}\n{CWE_QUESTION} {CWE_PREFIX} {answer}\n"


def fwe_sample(length: int, parts: Sequence[object], frame: Frame) -> Question:
    """The sample of ``length`` tokens, 50 for the answer included, that the seed ``parts`` decide.

    Of N words, N / (zeta(2) k^2) are the k-th most frequent; the first is noise. Raises ValueError
    naming ``task.lengths``.
    """
    rng = seeded(*parts)
    buffer, question_ids = frame.begin(
        "ruler_fwe",
        length,
        FWE_NEW_TOKENS,
        start=FWE_HEADER,
        asked=f"\n{FWE_QUESTION} {FWE_PREFIX}",
    )
    # N is at most the room, and the k-th word appears only if N > k^2
    ranks = min(length // TOKENS_PER_WORD, math.isqrt(buffer.room) + 1)
    vocabulary = [DOTS, *_coded_words(ranks - 1, rng)]
    pieces = list(encoded((" " + word for word in vocabulary), frame.tokenizer))
    tokens = np.array([len(piece) for piece in pieces])
    low, high = 0, buffer.room  # the largest N whose words fit
    while low < high:
        middle = (low + high + 1) // 2
        if tokens @ _zipf(middle, ranks) > buffer.room:
            high = middle - 1
        else:
            low = middle
    times = _zipf(low, ranks)
    if times[3] <= times[4]:
        raise ValueError(
            f"task.lengths: {length} tokens are too few for ruler_fwe: the third word would not "
            f"be more frequent than the fourth"
        )
    entries = np.repeat(np.arange(ranks), times).tolist()
    rng.shuffle(entries)
    for index in entries:
        buffer.add(pieces[index])
    return Question(buffer.ids, question_ids, FWE_QUESTION, tuple(vocabulary[1:4]))


def _zipf(words: int, ranks: int) -> np.ndarray:
    """How often each rank appears among ``words`` words, int64 (ranks,)."""
    squares = np.arange(1, ranks + 1, dtype=np.float64) ** 2
    return (words / (ZETA_2 * squares)).astype(np.int64)


def _coded_words(words: int, rng: random.Random) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < words:
        found["".join(rng.choices(string.ascii_lowercase, k=LETTERS))] = None
    return list(found)
