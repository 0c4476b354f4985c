"""The bounded step of a whole segment: its coefficients before and after the limit.

Legend: N chunks, G = batch x heads, P update points of the segment (row 0 is its start), J tokens
that are learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_bench.memory.chunkwise.coefficients import Coefficients, Rows
from atlas_bench.memory.spec import MemorySpec, MemoryState


@dataclass(frozen=True)
class Bound:
    """A segment's coefficients before the limit, and what the limit needs of the past.

    ``raw``: Coefficients.read without the limit. ``applied`` (N, G, P, J), ``applied_momentum`` and
    ``retained`` (N, G, P): the whole chunk's coefficients of gradients in W and S, and its
    keep-rate, including what earlier calls applied. ``seen`` (N or 1, 1, P, J): the tokens known at
    every row. ``closing``: whether the segment ends a chunk.
    """

    raw: Rows
    applied: Tensor
    applied_momentum: Tensor
    retained: Tensor
    seen: Tensor
    place: int
    closing: bool

    def momentum_factor(self, spec: MemorySpec, shrink_NGP: Tensor) -> Tensor | None:
        """What S is multiplied by at the segment's end, (N, G); None for 1."""
        return shrink_NGP[..., -1] if self.closing and spec.bounded_by == "network" else None

    def rows(self, shrink_NGP: Tensor) -> tuple[Rows, Rows]:
        """(read, carry) of the segment; inside a chunk the state is kept before the limit."""
        raw = self.raw
        read = Rows(
            (1 - shrink_NGP) * self.retained if self.place else None,
            shrink_NGP * raw.keep if self.place else raw.keep,
            None if raw.momentum is None else shrink_NGP * raw.momentum,
            shrink_NGP[..., None] * raw.step,
        )
        return read, (read if self.closing else raw).at(-1)


def bound_of(spec: MemorySpec, rows: Coefficients, state: MemoryState, size: int) -> Bound:
    """What the limit needs for a segment with ``size`` tokens per chunk that starts at ``state``.

    rho belongs to the whole chunk's step, so inside a chunk the coefficients that earlier calls
    applied (``state.applied``) are carried along.
    """
    raw, tokens = rows.read, rows.read.step.shape[-1]
    place = state.position % spec.chunk
    applied, applied_momentum, retained = raw.step, rows.momentum_step, raw.keep
    if place:
        padding = (0, size)
        earlier = torch.nn.functional.pad(state.applied.flatten(0, 1), padding)[None, :, None, :]
        earlier_momentum = torch.nn.functional.pad(state.applied_momentum.flatten(0, 1), padding)
        earlier_momentum = earlier_momentum[None, :, None, :]
        applied = applied + raw.keep[..., None] * earlier
        if spec.has_momentum:
            applied = applied + raw.momentum[..., None] * earlier_momentum
        kept = rows.momentum_keep if spec.has_momentum else _start_row(rows.momentum_keep)
        applied_momentum = applied_momentum + kept[..., None] * earlier_momentum
        retained = retained * state.retained.flatten()[None, :, None]
    # Row 0 has seen the tokens up to the last update before this segment.
    first = rows.points.new_full((1,), tokens - size - place % spec.update_every - 1)
    last_seen = torch.cat([first, rows.points])
    seen = (torch.arange(tokens, device=raw.step.device) <= last_seen[:, None])[None, None]
    if rows.valid is not None:
        seen = seen & rows.valid[:, None, None, :]
    return Bound(
        raw=raw,
        applied=applied,
        applied_momentum=applied_momentum,
        retained=retained,
        seen=seen,
        place=place,
        closing=(place + size) % spec.chunk == 0,
    )


def _start_row(like_NGP: Tensor) -> Tensor:
    """1 in row 0, 0 in the others: without momentum only the start still has the old gradient."""
    start = torch.zeros_like(like_NGP)
    start[..., 0] = 1
    return start
