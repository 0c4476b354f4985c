"""The bounded step: a chunk's summed step divided by max(1, rho), so that it cannot overshoot.

rho_p = max over the tokens i seen at p of sum_j |C_pj| kernel_ij. With ``bounded_by='keys'`` the
kernel is |phi(k_i).phi(k_j)|, which makes a matrix memory's step a contraction; how far a deep
memory's output moves depends on its weights as well, and ``network`` takes that in. It also scales
the momentum that leaves the chunk like the step it belongs to: left whole, what a chunk was not
allowed to do comes back in the next one.

Legend: chunked.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_bench.memory.chunkwise.coefficients import Coefficients, Rows
from atlas_bench.memory.networks import Factors
from atlas_bench.memory.spec import MemorySpec, MemoryState

SMALLEST_ERROR = 1e-6  # errors below it count as this large: nothing is left to overshoot


def kernel(spec: MemorySpec, phi: Tensor, factors: Factors, error: Tensor) -> Tensor:
    """How far a step on token j moves the output at token i, at most to first order: (..., J, J).

    For weights with gradients left x right, |right_i.right_j| |left_i| |left_j| / (|error_i|
    |error_j|), summed: the left factors are the output's error sent back to that weight, so their
    ratio is the gain on the way (exactly, in the direction of the token's own error). For a
    matrix the gain is 1, and this is |phi(k_i).phi(k_j)|.
    """
    if spec.bounded_by == "keys" or spec.network == "matrix":
        return (phi @ phi.mT).abs()
    size = torch.linalg.vector_norm(error, dim=-1, keepdim=True).clamp_min(SMALLEST_ERROR)
    total = None
    for left, right in factors.values():
        gain = torch.linalg.vector_norm(left, dim=-1, keepdim=True) / size
        scaled = right * gain
        part = (scaled @ scaled.mT).abs()
        total = part if total is None else total + part
    return total


def shrink(spec: MemorySpec, applied: Tensor, near: Tensor, seen: Tensor) -> Tensor:
    """1 / max(1, rho): applied (..., P, J), kernel (..., J, J), seen (..., P, J) -> (..., P).

    A rho of the network is a constant to the outer gradient: a safeguard, not a way to learn.
    """
    reach = applied.abs().to(near.dtype) @ near
    found = 1 / torch.where(seen, reach, reach.new_zeros(())).amax(-1).clamp_min(1)
    return found.detach() if spec.bounded_by == "network" else found


@dataclass(frozen=True)
class Bound:
    """A segment's coefficients before the safeguard, and what it needs of the past.

    ``raw``: Coefficients.read without it. ``applied`` (N, G, P, J), ``applied_momentum`` and
    ``retained`` (N, G, P): the whole chunk's coefficients of gradients in W and S and its
    keep-rate, what earlier calls applied included. ``seen`` (N or 1, 1, P, J): the tokens known
    at every row. ``closing``: whether the segment ends a chunk.
    """

    raw: Rows
    applied: Tensor
    applied_momentum: Tensor
    retained: Tensor
    seen: Tensor
    place: int
    closing: bool

    def of_momentum(self, spec: MemorySpec, shrink_NGP: Tensor) -> Tensor | None:
        """What S is multiplied by where the segment ends, (N, G); None for 1."""
        return shrink_NGP[..., -1] if self.closing and spec.bounded_by == "network" else None

    def rows(self, shrink_NGP: Tensor) -> tuple[Rows, Rows]:
        """(read, carry) of the segment; the state inside a chunk is kept before the safeguard."""
        raw = self.raw
        read = Rows(
            (1 - shrink_NGP) * self.retained if self.place else None,
            shrink_NGP * raw.keep if self.place else raw.keep,
            None if raw.momentum is None else shrink_NGP * raw.momentum,
            shrink_NGP[..., None] * raw.step,
        )
        return read, (read if self.closing else raw).at(-1)


def bound_of(spec: MemorySpec, rows: Coefficients, state: MemoryState, size: int) -> Bound:
    """What the safeguard needs for a segment of ``size`` tokens a chunk that starts at ``state``.

    rho is of the whole chunk's step, so inside a chunk the coefficients that earlier calls
    applied (``state.applied``) are carried along.
    """
    raw, tokens = rows.read, rows.read.step.shape[-1]
    place = state.position % spec.chunk
    applied, applied_momentum, retained = raw.step, rows.momentum_step, raw.keep
    if place:
        behind = (0, size)
        earlier = torch.nn.functional.pad(state.applied.flatten(0, 1), behind)[None, :, None, :]
        earlier_momentum = torch.nn.functional.pad(state.applied_momentum.flatten(0, 1), behind)
        earlier_momentum = earlier_momentum[None, :, None, :]
        applied = applied + raw.keep[..., None] * earlier
        if spec.has_momentum:
            applied = applied + raw.momentum[..., None] * earlier_momentum
        kept = rows.momentum_keep if spec.has_momentum else _start_row(rows.momentum_keep)
        applied_momentum = applied_momentum + kept[..., None] * earlier_momentum
        retained = retained * state.retained.flatten()[None, :, None]
    # Row 0 saw the tokens up to the last update before this segment.
    first = rows.points.new_tensor([tokens - size - place % spec.update_every - 1])
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
    """1 in row 0 and 0 after it: without momentum, only the start still has the old gradient."""
    start = torch.zeros_like(like_NGP)
    start[..., 0] = 1
    return start
