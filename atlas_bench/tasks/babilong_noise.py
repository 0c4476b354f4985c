"""Background text for BABILong: tokenised once, then cut out by slices of any length."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from atlas_bench.text.tokenizer import Tokenizer

MIN_SENTENCE_TOKENS = 10  # BABILong leaves shorter sentences out
_BATCH = 8192


def seeded(*parts: object) -> random.Random:
    """A generator decided by ``parts`` alone: the same in every process and on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Noise:
    """Consecutive sentences: int32 ``tokens``, and ``bounds`` where each starts, plus the end."""

    tokens: np.ndarray
    bounds: np.ndarray

    @property
    def sentence_count(self) -> int:
        """How many sentences, a truncated last one included."""
        return len(self.bounds) - 1


class NoisePool:
    """The sentences of a corpus as one flat int32 array, with the offsets of sentences and books.

    ``tokens`` int32 (N,), ``offsets`` int64 (sentences + 1,), ``book_starts`` the number of the
    first sentence of each book. About 4 bytes a token.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, book_starts: np.ndarray) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.book_starts = book_starts

    @classmethod
    def from_sentences(
        cls,
        books: Iterable[Sequence[str]],
        tokenizer: Tokenizer,
        *,
        min_tokens: int = MIN_SENTENCE_TOKENS,
        max_tokens: int | None = None,
    ) -> NoisePool:
        """Tokenise each sentence with a leading space; leave out those outside the two lengths.

        Raises ValueError when no sentence is left.
        """
        pieces: list[np.ndarray] = []
        book_starts: list[int] = []
        for book in books:
            first = len(pieces)
            for begin in range(0, len(book), _BATCH):
                texts = [" " + sentence for sentence in book[begin : begin + _BATCH]]
                for ids in tokenizer.encode_batch(texts):
                    if len(ids) >= min_tokens and (max_tokens is None or len(ids) <= max_tokens):
                        pieces.append(np.array(ids, dtype=np.int32))
            if len(pieces) > first:
                book_starts.append(first)
        if not pieces:
            raise ValueError(
                "text.source: the text holds no sentence of the allowed length "
                f"({min_tokens} tokens or more{f', at most {max_tokens}' if max_tokens else ''})"
            )
        offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        return cls(np.concatenate(pieces), offsets, np.array(book_starts, dtype=np.int64))

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.offsets) - 1

    def take(self, budget: int, rng: random.Random) -> Noise:
        """Exactly ``budget`` tokens of consecutive sentences from a random place in a random book.

        The last sentence is truncated to fit. Reading runs on into the next book and, at the end
        of the corpus, goes on from its beginning. Without wrapping nothing is copied.
        """
        if budget <= 0:
            return Noise(self.tokens[:0], np.zeros(1, dtype=np.int64))
        book = rng.randrange(len(self.book_starts))
        first = int(self.book_starts[book])
        last = int(self.book_starts[book + 1]) if book + 1 < len(self.book_starts) else len(self)
        return self._read(rng.randrange(first, last), budget)

    def _read(self, sentence: int, budget: int) -> Noise:
        start = int(self.offsets[sentence])
        bounds = [self.offsets[sentence:] - start]
        if start + budget <= len(self.tokens):
            tokens = self.tokens[start : start + budget]
        else:
            parts = [self.tokens[start:]]
            filled = len(parts[0])
            while filled < budget:
                parts.append(self.tokens[: budget - filled])
                bounds.append(self.offsets[1:] + filled)
                filled += len(parts[-1])
            tokens = np.concatenate(parts)
        flat = np.concatenate(bounds)
        inside = flat[: np.searchsorted(flat, budget, side="left")]
        return Noise(tokens, np.append(inside, budget))
