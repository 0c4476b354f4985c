"""Rows that hold several documents, each read from a fresh state.

A row is cut where its documents start, and every part is read as a sequence of its own. That resets
memories, caches, convolutions and positions alike and leaves the maths of every mixer as it is.
Parts of like length are read together, the shorter ones with more tokens behind them, which a
causal model cannot see from where it is looked at.

Legend: B rows, T tokens of a row, N parts of a group, L tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from atlas_bench.models.language_model import LanguageModel

# Tokens read for nothing, at most, for each that is wanted. Fewer make more groups, each a call.
MAX_PADDING = 0.1


def packed_forward(
    model: LanguageModel,
    tokens: Tensor,
    starts: np.ndarray,
    forward: Callable[[Tensor], tuple[Tensor, object]] | None = None,
) -> Tensor:
    """tokens (B, T) int64 and where documents start, (B, T) bool -> hidden (B, T, width).

    Each row's first token starts one too, marked or not. ``forward``: a compiled ``model``, or one
    that reads in pieces. In training mode ``model.gates`` are left as after one call over the whole
    rows.
    """
    forward = forward or model
    flat = tokens.flatten()
    hidden, places = [], []
    gates: list[list[dict[str, Tensor]]] = []
    for first, lengths in part_groups(starts):
        steps = np.arange(lengths.max())
        place_NL = first[:, None] + steps
        # Behind a part stands what follows it in the rows; behind the very last, its last token.
        index = torch.from_numpy(np.minimum(place_NL, len(flat) - 1)).to(flat.device)
        found, _ = forward(flat[index])
        inside = steps < lengths[:, None]
        kept = torch.from_numpy(inside).to(flat.device)
        hidden.append(found[kept])
        if model.training:
            gates.append([{n: gate[kept] for n, gate in layer.items()} for layer in model.gates])
        places.append(place_NL[inside])
    back = torch.from_numpy(np.argsort(np.concatenate(places))).to(flat.device)

    def in_rows(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)[back].unflatten(0, tokens.shape)

    model.gates = [
        {name: in_rows([layer[name] for layer in layers]) for name in layers[0]}
        for layers in zip(*gates, strict=True)
    ]
    return in_rows(hidden)


def part_groups(starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(B, T) bool -> groups of parts: their first tokens' places in the flat rows, their lengths.

    From the longest down, a part joins a group while the group's padding stays within MAX_PADDING
    of its tokens, so that it does so for all of them together.
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
