"""Many texts read at the price of their differences: what several begin with is read once.

The texts form a tree of prefixes. The state after an inner node is computed once, and each text
that goes on from there gets a copy of its row. Works for every mixer, since a state is all that is
left of the past; for a recurrent one a copy is small, whatever the prefix's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch

from atlas_bench.evaluation.memory_use import free_memory, refuse_what_cannot_fit
from atlas_bench.evaluation.streaming import prefill
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.state import ModelState

# A shorter prefix is read again with each text: that costs less than smaller batches would.
SHORTEST_SHARED = 16
FILLED = 0.75  # of a batch's longest text, that every other has at least: the rest is read in vain


@dataclass(frozen=True)
class Text:
    """``tokens`` (n,) int32, of which the first ``plain`` are only read: nothing is asked there."""

    tokens: np.ndarray
    plain: int
    index: int


@dataclass(frozen=True)
class Standing:
    """Texts that were read up to ``depth`` tokens, and the state there, a row for each."""

    texts: list[Text]
    depth: int
    state: ModelState


Group = tuple[int, int]  # the texts from .. to of the sorted ones


class PrefixReader:
    """Reads texts up to where they part. ``tokens_read`` counts what the model was given.

    ``batch_tokens``: tokens read at once, at least one text; ``batch_rows``: texts at once.
    ``shared=False`` reads every text from its start.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        prefill_chunk: int,
        batch_tokens: int,
        batch_rows: int | None = None,
        shared: bool = True,
    ) -> None:
        self.model, self.prefill_chunk, self.shared = model, prefill_chunk, shared
        self.batch_tokens, self.batch_rows = batch_tokens, batch_rows
        self.tokens_read = 0

    def stand(self, texts: Iterable[Text], *, equal: bool) -> Iterator[Standing]:
        """Every text once, in batches, at least its last token still to be read.

        ``equal``: what is left is equally long in all texts of a batch. Raises DoesNotFit for a
        text whose state exceeds the free memory.
        """
        texts = sorted(texts, key=_key) if self.shared else list(texts)
        common = [_common(*pair) if self.shared else 0 for pair in pairwise(texts)]
        start = self.model.init_state(1)
        yield from self._descend(texts, common, [(0, len(texts))], 0, start, equal)

    def _descend(
        self,
        texts: list[Text],
        common: list[int],
        groups: list[Group],
        depth: int,
        state: ModelState,
        equal: bool,
    ) -> Iterator[Standing]:
        """The texts of ``groups``, the i-th of which goes on from row i of ``state``."""
        leaves: list[tuple[Text, int]] = []
        nodes: list[tuple[int, Group, int]] = []  # where its texts part, which they are, the row
        for row, group in enumerate(groups):
            for first, last in _clusters(common, group, depth + SHORTEST_SHARED):
                if last - first == 1:
                    leaves.append((texts[first], row))
                else:
                    nodes.append((min(common[first : last - 1]), (first, last), row))
        yield from self._leaves(leaves, depth, state, equal)
        nodes.sort(key=lambda node: node[0])
        for end, alike in groupby(nodes, key=lambda node: node[0]):
            for batch in self._batches(list(alike), lambda _, e=end: (e - depth, e)):
                tokens = np.stack([texts[first].tokens[depth:end] for _, (first, _), _ in batch])
                rows = [row for *_, row in batch]
                self.tokens_read += tokens.size
                below = state.select(rows)
                _, below = prefill(self.model, torch.from_numpy(tokens), below, self.prefill_chunk)
                parts = [group for _, group, _ in batch]
                yield from self._descend(texts, common, parts, end, below, equal)

    def _leaves(
        self, leaves: list[tuple[Text, int]], depth: int, state: ModelState, equal: bool
    ) -> Iterator[Standing]:
        leaves = sorted(leaves, key=lambda leaf: len(leaf[0].tokens), reverse=True)
        for _, alike in groupby(leaves, key=lambda leaf: equal and len(leaf[0].tokens)):
            for batch in self._batches(list(alike), lambda leaf: _left(leaf[0], depth)):
                rows = [row for _, row in batch]
                self.tokens_read += sum(len(text.tokens) - depth for text, _ in batch)
                yield Standing([text for text, _ in batch], depth, state.select(rows))

    def _batches(
        self, items: Sequence[Any], size: Callable[[Any], tuple[int, int]]
    ) -> Iterator[list[Any]]:
        """Items, longest first, in batches; ``size``: the tokens to read of one, and those then
        behind it."""
        device = self.model.embedding.weight.device
        while items:
            tokens, length = size(items[0])
            refuse_what_cannot_fit(self.model, 1, length)
            # Half of what is free: the state is copied while it grows.
            fitting = free_memory(device) // 2 // max(1, self.model.state_bytes(1, length))
            most = min(self.batch_tokens // tokens, fitting, self.batch_rows or len(items))
            count = 1
            while count < min(most, len(items)) and size(items[count])[0] >= FILLED * tokens:
                count += 1
            yield list(items[:count])
            items = items[count:]


def _key(text: Text) -> bytes:
    """Sorts like the shareable tokens themselves, and compares as fast as bytes do."""
    return text.tokens[: text.plain].astype(">i4").tobytes()


def _common(first: Text, second: Text) -> int:
    """How many tokens both begin with and only read."""
    length = min(first.plain, second.plain)
    differs = np.flatnonzero(first.tokens[:length] != second.tokens[:length])
    return int(differs[0]) if len(differs) else length


def _clusters(common: list[int], group: Group, least: int) -> Iterator[Group]:
    """The group cut between neighbours that share fewer than ``least`` tokens."""
    first, last = group
    for end in range(first + 1, last + 1):
        if end == last or common[end - 1] < least:
            yield first, end
            first = end


def _left(text: Text, depth: int) -> tuple[int, int]:
    return len(text.tokens) - depth, len(text.tokens)
