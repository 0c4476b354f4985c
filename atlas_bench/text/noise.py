"""Background text for BABILong: tokenised once, then taken in slices of any length."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from atlas_bench.text.corpora import load_corpus, sentences
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import EMBEDDED, Tokenizer

MIN_SENTENCE_TOKENS = 10  # BABILong leaves shorter sentences out
_BATCH = 8192


@dataclass(frozen=True)
class Noise:
    """Consecutive sentences of a pool, without a copy.

    ``source``: the pool's int32 tokens, read from ``start`` on and after their end from 0.
    ``bounds``: where each sentence starts in the noise, and the end.
    """

    source: np.ndarray
    start: int
    bounds: np.ndarray

    @property
    def sentence_count(self) -> int:
        """The number of sentences, with a truncated last one."""
        return len(self.bounds) - 1

    @property
    def tokens(self) -> np.ndarray:
        """All of it as one int32 array."""
        return np.concatenate([self.source[:0], *self.pieces(0, int(self.bounds[-1]))])

    def pieces(self, begin: int, end: int) -> Iterator[np.ndarray]:
        """Views of the source that hold tokens ``begin`` to ``end - 1``."""
        while begin < end:
            at = (self.start + begin) % len(self.source)
            piece = self.source[at : at + end - begin]
            yield piece
            begin += len(piece)


@dataclass(eq=False)
class NoisePool:
    """The sentences of a corpus as one flat array, with the offsets of sentences and books."""

    tokens: np.ndarray  # int32 (N,)
    offsets: np.ndarray  # int64 (sentences + 1,)
    book_starts: np.ndarray  # int64 (books,), the number of the first sentence of each book

    @classmethod
    def from_sentences(
        cls,
        books: Iterable[Sequence[str]],
        tokenizer: Tokenizer,
        *,
        min_tokens: int = MIN_SENTENCE_TOKENS,
    ) -> NoisePool:
        """Tokenise each sentence with a leading space; leave out those that are shorter.

        Raises ValueError if no sentence is left, or if the tokenizer does not give them back.
        """
        books = list(books)
        tokenizer.check_round_trip(" " + sentence for book in books for sentence in book)
        pieces: list[np.ndarray] = []
        book_starts: list[int] = []
        for book in books:
            first = len(pieces)
            for begin in range(0, len(book), _BATCH):
                texts = [" " + sentence for sentence in book[begin : begin + _BATCH]]
                for ids in tokenizer.encode_batch(texts):
                    if len(ids) >= min_tokens:
                        pieces.append(np.array(ids, dtype=np.int32))
            if len(pieces) > first:
                book_starts.append(first)
        if not pieces:
            raise ValueError(
                "text.source: the text holds no sentence of the allowed length "
                f"({min_tokens} tokens or more)"
            )
        offsets = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
        return cls(np.concatenate(pieces), offsets, np.array(book_starts, dtype=np.int64))

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.offsets) - 1

    def take(self, budget: int, rng: random.Random) -> Noise:
        """Exactly ``budget`` tokens of consecutive sentences from a random place in a random book.

        The last sentence is truncated to fit. After a book the next one follows, and after the
        last one the first.
        """
        if budget <= 0:
            return Noise(self.tokens, 0, np.zeros(1, dtype=np.int64))
        book = rng.randrange(len(self.book_starts))
        first = int(self.book_starts[book])
        last = int(self.book_starts[book + 1]) if book + 1 < len(self.book_starts) else len(self)
        sentence = rng.randrange(first, last)
        start = int(self.offsets[sentence])
        bounds = [self.offsets[sentence:] - start]
        reached = len(self.tokens) - start
        while reached < budget:
            bounds.append(self.offsets[1:] + reached)
            reached += len(self.tokens)
        flat = np.concatenate(bounds)
        inside = flat[: np.searchsorted(flat, budget, side="left")]
        return Noise(self.tokens, start, np.append(inside, budget))


def load_noise(
    text: TextSettings,
    split: str,
    tokenizer: Tokenizer,
    *,
    min_tokens: int = MIN_SENTENCE_TOKENS,
    without_names: frozenset[str] = frozenset(),
) -> NoisePool:
    """The sentences of the ``train`` or ``test`` part of a text that contain none of the names.

    Raises CorpusError (a ValueError) that names the key when the text is unavailable.
    """
    read = _embedded_noise if text.source == EMBEDDED else _read_noise
    return read(text.source, text.folder, split, tokenizer, min_tokens, without_names)


def _read_noise(
    source: str,
    folder: str | None,
    split: str,
    tokenizer: Tokenizer,
    min_tokens: int,
    without_names: frozenset[str],
) -> NoisePool:
    books = sentences(load_corpus(source, folder=folder, split=split), without_names)
    return NoisePool.from_sentences(books, tokenizer, min_tokens=min_tokens)


# The embedded text cannot change: the jobs of a sweep and the evaluations of a run share its pools.
_embedded_noise = lru_cache(maxsize=4)(_read_noise)
