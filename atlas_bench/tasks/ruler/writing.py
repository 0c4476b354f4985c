"""Contexts as token ids, made of pieces that are tokenised separately.

A context of 10 million tokens is never a string and never tokenised as a whole: units are encoded
once or in batches, counted, and written directly into the array that the model reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer

_FIRST_BATCH, _LARGEST_BATCH = 32, 2048  # texts encoded together; short contexts need few


class TokenBuffer:
    """An int32 array of a fixed capacity that is written from front to back."""

    def __init__(self, capacity: int) -> None:
        self._ids = np.empty(max(0, capacity), dtype=np.int32)
        self.used = 0

    def add(self, piece: np.ndarray) -> None:
        """Write ``piece`` (n,). Raises ValueError when it is longer than the room left."""
        end = self.used + len(piece)
        self._ids[self.used : end] = piece
        self.used = end

    @property
    def room(self) -> int:
        """Tokens that can still be written."""
        return len(self._ids) - self.used

    @property
    def ids(self) -> np.ndarray:
        """The tokens written so far, as a view."""
        return self._ids[: self.used]


@dataclass(frozen=True)
class Frame:
    """What all samples of a run share: the tokenizer, the ids (n,) that follow every answer prefix,
    and prose for essay haystacks."""

    tokenizer: Tokenizer
    ending: np.ndarray
    essays: NoisePool | None = None

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text that is used once, int32."""
        return np.array(self.tokenizer.encode(text), dtype=np.int32)

    def begin(
        self, subtask: str, length: int, new_tokens: int, *, start: str, asked: str, needed: int = 1
    ) -> tuple[TokenBuffer, np.ndarray]:
        """A context that begins with ``start`` and has room for everything before the question in a
        prompt of ``length - new_tokens`` tokens; and the ids of the question.

        Raises ValueError naming ``task.lengths`` when fewer than ``needed`` tokens are left.
        """
        question_ids = np.append(self.encode(asked), self.ending).astype(np.int32)
        start_ids = self.encode(start)
        buffer = TokenBuffer(length - new_tokens - len(question_ids))
        missing = needed + len(start_ids) - buffer.room
        if missing > 0:
            raise ValueError(
                f"task.lengths: {length} tokens are too few for {subtask}, which needs "
                f"{length + missing} with this tokenizer, {new_tokens} for the answer included"
            )
        buffer.add(start_ids)
        return buffer, question_ids


def encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of many different texts, lazily, in growing batches. Reads ahead of what is taken."""
    size, batch = _FIRST_BATCH, []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield from _as_arrays(tokenizer.encode_batch(batch))
            size, batch = min(2 * size, _LARGEST_BATCH), []
    yield from _as_arrays(tokenizer.encode_batch(batch))


def _as_arrays(batch: list[list[int]]) -> Iterator[np.ndarray]:
    return (np.array(ids, dtype=np.int32) for ids in batch)


@dataclass(frozen=True)
class Passage:
    """``length`` tokens of a pool from sentence number ``first`` on, without a copy. After the end
    of the pool its beginning follows. The last sentence is cut."""

    pool: NoisePool
    first: int
    length: int

    @cached_property
    def sentences(self) -> int:
        """The number of sentences, including the one that is cut."""
        around, within = divmod(self._start + self.length, len(self.pool.tokens))
        last = int(np.searchsorted(self.pool.offsets, within, side="left"))
        return around * len(self.pool) + last - self.first

    def bound(self, sentence: int) -> int:
        """Tokens of the passage before its sentence number ``sentence`` (0 to ``sentences``)."""
        around, within = divmod(self.first + sentence, len(self.pool))
        start = around * len(self.pool.tokens) + int(self.pool.offsets[within])
        return min(start - self._start, self.length)

    def write(self, begin: int, end: int, buffer: TokenBuffer) -> None:
        """Write the passage's tokens ``begin`` to ``end - 1``."""
        tokens = self.pool.tokens
        while begin < end:
            at = (self._start + begin) % len(tokens)
            piece = tokens[at : at + end - begin]
            buffer.add(piece)
            begin += len(piece)

    @property
    def _start(self) -> int:
        return int(self.pool.offsets[self.first])
