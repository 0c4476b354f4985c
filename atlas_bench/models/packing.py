"""Rows that hold several documents, each read from a fresh state.

A row is cut where its documents start, and every part is read as a sequence of its own. This resets
memories, caches, convolutions and positions alike, and leaves the maths of every mixer as it is.
Parts of similar length are read together. The shorter ones are padded with the tokens behind them,
which do not change a causal model's results for the part itself.

Legend: B rows, T tokens of a row, N parts of a group, L tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from atlas_bench.models.language_model import LanguageModel

# The most padding tokens per wanted token. Less padding needs more groups, each with its own call.
MAX_PADDING = 0.1


def packed_forward(
    model: LanguageModel,
    tokens: Tensor,
    starts: np.ndarray,
    forward: Callable[[Tensor], tuple[Tensor, object]] | None = None,
) -> Tensor:
    """tokens (B, T) int64 and where documents start, (B, T) bool -> hidden (B, T, width).

    The first token of a row always starts a document. ``forward``: a compiled ``model``, or one
    that reads in pieces. In training mode each mixer's ``observed`` is that of the whole rows.
    """
    forward = forward or model
    flat, mixers = tokens.flatten(), model.all_mixers()
    hidden, places = [], []
    observed: list[list[dict[str, Tensor]]] = []  # by group and layer
    for first, lengths in part_groups(starts):
        steps = np.arange(lengths.max())
        place_NL = first[:, None] + steps
        # The padding is what follows the part in the rows; after the last part, the last token.
        index = torch.from_numpy(np.minimum(place_NL, len(flat) - 1)).to(flat.device)
        group_hidden, _ = forward(flat[index])
        inside = steps < lengths[:, None]
        kept = torch.from_numpy(inside).to(flat.device)
        hidden.append(group_hidden[kept])
        places.append(place_NL[inside])
        if model.training:
            observed.append([{n: x[kept] for n, x in mixer.observed.items()} for mixer in mixers])
    order = torch.from_numpy(np.argsort(np.concatenate(places))).to(flat.device)

    def in_rows(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)[order].unflatten(0, tokens.shape)

    for mixer, groups in zip(mixers, zip(*observed, strict=True), strict=False):
        if groups[0]:
            mixer.observed = {name: in_rows([g[name] for g in groups]) for name in groups[0]}
    return in_rows(hidden)


def part_groups(starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(B, T) bool -> groups of parts: their first tokens' places in the flat rows, their lengths.

    Parts are taken from the longest down. A part joins the group while the group's padding stays
    within MAX_PADDING of its tokens; then the padding of all groups together does as well.
    """
    starts = starts.copy()
    starts[:, 0] = True
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=starts.size)
    order = np.argsort(-lengths, kind="stable")
    begun = 0
    while begun < len(order):
        ranked = lengths[order[begun:]]
        padding = np.cumsum(ranked[0] - ranked)
        # Padding grows faster than tokens do: once it is too much, it stays so.
        size = int(np.count_nonzero(padding <= MAX_PADDING * np.cumsum(ranked)))
        group = order[begun : begun + size]
        yield first[group], lengths[group]
        begun += size
