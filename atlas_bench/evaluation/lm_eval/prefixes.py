"""Read many texts so that a prefix that several of them share is read once.

The texts form a tree of prefixes. The state after an inner node is computed once, and each text
that continues from there gets a copy of its row. This works for every mixer, because the state is
all that a model keeps of the past. The copy of a recurrent state is small for any prefix length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch

from atlas_bench.evaluation.memory_use import free_memory, refuse_what_cannot_fit
from atlas_bench.evaluation.streaming import prefill
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.state import ModelState, select_rows

# A shorter prefix is read again with each text, which costs less than smaller batches.
SHORTEST_SHARED = 16
# Every text of a batch has at least this share of the longest one's tokens; the rest is padding.
FILLED = 0.75


@dataclass(frozen=True)
class Text:
    """``tokens`` (n,) int32; no predictions are needed at the first ``context``."""

    tokens: np.ndarray
    context: int
    index: int


@dataclass(frozen=True)
class PartlyRead:
    """Texts that were read up to ``depth`` tokens, and the state there, with a row for each."""

    texts: list[Text]
    depth: int
    state: ModelState


Group = tuple[int, int]  # first and end of a range of the sorted texts


@dataclass
class PrefixReader:
    """Reads texts up to where they differ."""

    model: LanguageModel
    _: KW_ONLY
    prefill_chunk: int  # tokens of a text read at once
    batch_tokens: int  # tokens of a batch, at least one text
    batch_rows: int | None = None  # texts of a batch
    shared: bool = True  # False: every text is read from its start
    tokens_read: int = 0  # tokens given to the model so far

    def read_prefixes(self, texts: Iterable[Text], *, equal: bool) -> Iterator[PartlyRead]:
        """Every text once, in batches; at least its last token is still to be read.

        ``equal``: the rest is equally long in all texts of a batch. Raises DoesNotFit for a
        text whose state exceeds the free memory.
        """
        texts = list(texts)
        if self.shared:  # in the order of the contexts' tokens; bytes compare fast
            texts.sort(key=lambda text: text.tokens[: text.context].astype(">i4").tobytes())
        common = [_common_length(*pair) if self.shared else 0 for pair in pairwise(texts)]
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
    ) -> Iterator[PartlyRead]:
        """The texts of ``groups``; group i continues from row i of ``state``."""
        leaves: list[tuple[Text, int]] = []
        nodes: list[tuple[int, Group, int]] = []  # depth where its texts differ, texts, row
        for row, group in enumerate(groups):
            for first, last in _clusters(common, group, depth + SHORTEST_SHARED):
                if last - first == 1:
                    leaves.append((texts[first], row))
                else:
                    nodes.append((min(common[first : last - 1]), (first, last), row))
        yield from self._leaves(leaves, depth, state, equal)
        nodes.sort(key=lambda node: node[0])
        for end, same_depth in groupby(nodes, key=lambda node: node[0]):
            for batch in self._batches(list(same_depth), lambda _, e=end: (e - depth, e)):
                tokens = np.stack([texts[first].tokens[depth:end] for _, (first, _), _ in batch])
                rows = [row for *_, row in batch]
                self.tokens_read += tokens.size
                below = select_rows(state, rows)
                _, below = prefill(self.model, torch.from_numpy(tokens), below, self.prefill_chunk)
                parts = [group for _, group, _ in batch]
                yield from self._descend(texts, common, parts, end, below, equal)

    def _leaves(
        self, leaves: list[tuple[Text, int]], depth: int, state: ModelState, equal: bool
    ) -> Iterator[PartlyRead]:
        def size(leaf: tuple[Text, int]) -> tuple[int, int]:
            return len(leaf[0].tokens) - depth, len(leaf[0].tokens)

        leaves = sorted(leaves, key=size, reverse=True)
        for _, same_length in groupby(leaves, key=lambda leaf: equal and size(leaf)):
            for batch in self._batches(list(same_length), size):
                rows = [row for _, row in batch]
                self.tokens_read += sum(len(text.tokens) - depth for text, _ in batch)
                yield PartlyRead([text for text, _ in batch], depth, select_rows(state, rows))

    def _batches(
        self, items: Sequence[Any], size: Callable[[Any], tuple[int, int]]
    ) -> Iterator[list[Any]]:
        """Items, longest first, in batches. ``size`` gives an item's tokens to read, and its length
        after that."""
        device = self.model.embedding.weight.device
        while items:
            tokens, length = size(items[0])
            refuse_what_cannot_fit(self.model, 1, length)
            # Half of the free memory, because the state is copied while it grows.
            fitting = free_memory(device) // 2 // max(1, self.model.state_bytes(1, length))
            most = min(self.batch_tokens // tokens, fitting, self.batch_rows or len(items))
            count = 1
            while count < min(most, len(items)) and size(items[count])[0] >= FILLED * tokens:
                count += 1
            yield list(items[:count])
            items = items[count:]


def _common_length(first: Text, second: Text) -> int:
    """The length of the longest common prefix of both contexts."""
    length = min(first.context, second.context)
    differs = np.flatnonzero(first.tokens[:length] != second.tokens[:length])
    return int(differs[0]) if len(differs) else length


def _clusters(common: list[int], group: Group, least: int) -> Iterator[Group]:
    """The group, split between neighbours that share fewer than ``least`` tokens."""
    first, last = group
    for end in range(first + 1, last + 1):
        if end == last or common[end - 1] < least:
            yield first, end
            first = end
