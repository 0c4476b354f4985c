"""The scalars of the chunk-parallel form: how much of what is in W and S at every update point.

Everything here follows from the gates (and, for the bounded step, the keys), never from the
state, so it is computed for all chunks at once.

Legend: N chunks, G batch x heads, U update points of the segment, P = U + 1 (row 0 is the
segment's start), J tokens that are learnt from, X tokens of the segment.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_bench.memory.spec import MemorySpec, MemoryState


class _DecayProducts(torch.autograd.Function):
    """L[p, r] = g_{r+1} ... g_p for r <= p (1 on the diagonal), 0 above: (..., U) -> (..., U, U).

    Exact, forward and backward, for gates that are exactly 0, where log-space sums are not.
    """

    @staticmethod
    def forward(ctx, gate: Tensor) -> Tensor:
        size = gate.shape[-1]
        below = torch.ones(size, size, dtype=torch.bool, device=gate.device).tril(-1)
        factors = torch.where(below, gate[..., :, None], gate.new_ones(()))
        products = factors.cumprod(-2).tril()
        ctx.save_for_backward(products)
        return products

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (products,) = ctx.saved_tensors
        # d L[p, r] / d g_i = L[p, i] L[i-1, r] for r < i <= p: the product without g_i.
        through = products.mT @ grad.tril()
        total = torch.zeros_like(through[..., 0])
        total[..., 1:] = (through[..., 1:, :] * products[..., :-1, :]).sum(-1)
        return total


def decay_products(gate: Tensor) -> tuple[Tensor, Tensor]:
    """(..., U) -> L as above (..., U, U), and the products from the start g_1 ... g_p (..., U)."""
    if not gate.shape[-1]:
        return gate.new_zeros(*gate.shape, 0), gate
    products = _DecayProducts.apply(gate)
    return products, products[..., 0] * gate[..., :1]


@dataclass(frozen=True)
class Rows:
    """W seen = reference W_ref + keep W - momentum S - sum_j step_j u_j; None where a term is 0."""

    reference: Tensor | None
    keep: Tensor
    momentum: Tensor | None
    step: Tensor

    def at(self, index: int | Tensor) -> Rows:
        """The rows of one update point (int), or of many (index tensor), along P."""
        if isinstance(index, int):
            vector, matrix = (lambda x: x[..., index]), (lambda x: x[..., index, :])
        else:
            vector = lambda x: x.index_select(-1, index)  # noqa: E731
            matrix = lambda x: x.index_select(-2, index)  # noqa: E731
        return Rows(
            None if self.reference is None else vector(self.reference),
            vector(self.keep),
            None if self.momentum is None else vector(self.momentum),
            matrix(self.step),
        )


@dataclass(frozen=True)
class Coefficients:
    """Of one segment. ``read``: (N, G, P) and (N, G, P, J), for what is read at update point p.

    ``carry``: (N, G) and (N, G, J), for the weights that the next segment starts from.
    ``momentum_keep`` (N, G, P), ``momentum_step`` (N, G, P, J): S_p. ``token_rows`` (X): the row
    every token reads. For `muon`, which forms S_p itself: ``window`` (U, c) the tokens of every
    update's window, ``window_weight`` (N, G, U, c) their weights, ``momentum_blend`` (N, G, U, U)
    the weight of G_p' in S_p and ``blend`` (N, G, P, U) that of O(S_p') in W_p; ``writes`` (N, G)
    whether any rate is above 0, ``may_skip`` whether those that do not write may be left out.
    ``channel_keep`` (N, G, D, U): the keep-rates per feature, for which the others hold 1.
    ``applied``, ``applied_momentum`` (N, G, J), ``retained`` (N, G): the bounded step's memory.
    """

    read: Rows
    carry: Rows
    momentum_keep: Tensor
    momentum_step: Tensor
    token_rows: Tensor
    window: Tensor
    window_weight: Tensor
    momentum_blend: Tensor
    blend: Tensor
    writes: Tensor
    may_skip: bool
    channel_keep: Tensor | None = None
    applied: Tensor | None = None
    applied_momentum: Tensor | None = None
    retained: Tensor | None = None


def coefficients(
    spec: MemorySpec,
    windows: dict[str, Tensor],
    phi_k_NGJD: Tensor,
    state: MemoryState,
    size: int,
    padded: int,
) -> Coefficients:
    """All coefficients of a segment of ``size`` tokens a chunk that starts where ``state`` is.

    ``windows``: the gates as (N, G, J). ``padded``: tokens in front of the sequence's first.
    """
    chunks, _, tokens = windows["rate"].shape
    device = phi_k_NGJD.device
    behind, every = tokens - size, spec.update_every
    place = state.position % spec.chunk
    ends = [i for i in range(size) if (place + i + 1) % every == 0]
    points = torch.tensor([behind + i for i in ends], dtype=torch.long, device=device)
    rows = [(place + i + 1) // every - place // every for i in range(size)]
    token_rows = torch.tensor(rows, device=device)
    valid_NJ = _valid(chunks, tokens, size, padded, device)

    retain = windows["retain"]
    channel_keep = None
    if retain.dim() == 4:  # per feature: chunked_channel.py, and 1 here
        channel_keep = _since_last(retain.movedim(-1, 2), points, every).prod(-1)
        retain = torch.ones_like(retain[..., 0])
    alpha = _since_last(retain, points, every).prod(-1)
    theta = _since_last(windows["momentum"], points, every).prod(-1)
    eta = _since_last(windows["rate"], points, every).mean(-1)
    gamma = _window_matrix(spec, windows["weight"], points, tokens, valid_NJ)

    alpha_products, kept = decay_products(alpha)
    momentum_step = gamma
    theta_products, momentum_kept = decay_products(theta)
    if spec.has_momentum:
        momentum_step = theta_products @ gamma
    window = points[:, None] + torch.arange(1 - spec.window, 1, device=device)
    inside = window >= 0  # a sequence's first windows are short
    window = window.clamp_min(0)
    window_weight = gamma.gather(-1, window.expand(*gamma.shape[:2], *window.shape)) * inside
    blend = alpha_products * eta[..., None, :]
    step = blend @ momentum_step
    used = (blend @ momentum_kept[..., None]).squeeze(-1) if spec.has_momentum else None

    raw = Rows(None, _first(kept, 1), None if used is None else _first(used, 0), _row(step))
    read, carry, extra = raw, raw.at(-1), {}
    if spec.is_bounded:
        read, carry, extra = _bounded(
            spec,
            raw,
            phi_k_NGJD,
            state,
            size,
            place,
            points,
            valid_NJ,
            _first(momentum_kept, 1),
            _row(momentum_step),
        )
    return Coefficients(
        read=read,
        carry=carry,
        momentum_keep=_first(momentum_kept, 1),
        momentum_step=_row(momentum_step),
        token_rows=token_rows,
        window=window,
        window_weight=window_weight,
        momentum_blend=theta_products,
        blend=_row(blend),
        channel_keep=channel_keep,
        writes=(eta != 0).any(-1),
        # A rate of 0 has no gradient where its gate is flat; a GPU loses by choosing among groups.
        may_skip=device.type == "cpu" and (spec.gate == "hard_sigmoid" or not eta.requires_grad),
        **extra,
    )


def _first(x_NGU: Tensor, value: float) -> Tensor:
    """Row 0, the segment's start, in front: (N, G, P)."""
    return torch.nn.functional.pad(x_NGU, (1, 0), value=value)


def _row(x_NGUJ: Tensor) -> Tensor:
    return torch.nn.functional.pad(x_NGUJ, (0, 0, 1, 0))


def _valid(chunks: int, tokens: int, size: int, padded: int, device: torch.device) -> Tensor | None:
    """Which of the window's tokens exist, (N, J); None where all do."""
    if padded == 0:
        return None
    first = torch.arange(chunks, device=device)[:, None] * size
    return first + torch.arange(tokens, device=device) >= padded


def _since_last(gate_NGJ: Tensor, points: Tensor, every: int) -> Tensor:
    """The gates of the ``every`` tokens that end at each update point: (N, G, U, every)."""
    index = points[:, None] + torch.arange(1 - every, 1, device=points.device)
    return gate_NGJ[..., index.flatten()].unflatten(-1, index.shape)


def _window_matrix(
    spec: MemorySpec, weight: Tensor, points: Tensor, tokens: int, valid_NJ: Tensor | None
) -> Tensor:
    """gamma_j^(t) for every update point and token, 0 outside its window: (N, G, U, J)."""
    lag = points[:, None] - torch.arange(tokens, device=points.device)
    inside = (lag >= 0) & (lag < spec.window)
    if valid_NJ is not None:
        inside = inside & valid_NJ[:, None, None, :]
    if spec.window_weights == "token":
        spread = weight[..., None, :]
    else:
        at_points = weight.index_select(2, points)
        index = lag.clamp(0, spec.window - 1).expand(*at_points.shape[:2], *lag.shape)
        spread = at_points.gather(-1, index)
    return torch.where(inside, spread, spread.new_zeros(()))


def _bounded(
    spec: MemorySpec,
    raw: Rows,
    phi_k_NGJD: Tensor,
    state: MemoryState,
    size: int,
    place: int,
    points: Tensor,
    valid_NJ: Tensor | None,
    momentum_keep: Tensor,
    momentum_step: Tensor,
) -> tuple[Rows, Rows, dict[str, Tensor]]:
    """Divide every row's step by max(1, rho): see memory.reference._bounded_weights.

    rho is of the whole chunk's step, so inside a chunk the coefficients that earlier calls
    applied (``state.applied``) are carried along.
    """
    tokens = phi_k_NGJD.shape[2]
    applied, applied_momentum = raw.step, momentum_step
    retained = raw.keep
    if place:
        behind = (0, size)
        earlier = torch.nn.functional.pad(state.applied.flatten(0, 1), behind)[None, :, None, :]
        earlier_momentum = torch.nn.functional.pad(state.applied_momentum.flatten(0, 1), behind)
        earlier_momentum = earlier_momentum[None, :, None, :]
        applied = applied + raw.keep[..., None] * earlier
        if spec.has_momentum:
            applied = applied + raw.momentum[..., None] * earlier_momentum
        kept = momentum_keep[..., None] if spec.has_momentum else _start_row(momentum_keep)
        applied_momentum = applied_momentum + kept * earlier_momentum
        retained = retained * state.retained.flatten()[None, :, None]
    kernel = (phi_k_NGJD @ phi_k_NGJD.mT).abs()
    reach = applied.abs() @ kernel
    # Row 0 saw the tokens up to the last update before this segment.
    last_seen = torch.cat(
        [points.new_tensor([tokens - size - place % spec.update_every - 1]), points]
    )
    seen = torch.arange(tokens, device=points.device) <= last_seen[:, None]
    if valid_NJ is not None:
        seen = seen & valid_NJ[:, None, None, :]
    shrink = 1 / torch.where(seen, reach, reach.new_zeros(())).amax(-1).clamp_min(1)
    read = Rows(
        (1 - shrink) * retained if place else None,
        shrink * raw.keep if place else raw.keep,
        None if raw.momentum is None else shrink * raw.momentum,
        shrink[..., None] * raw.step,
    )
    closing = (place + size) % spec.chunk == 0
    extra = {
        "applied": applied[..., -1, :],
        "applied_momentum": applied_momentum[..., -1, :],
        "retained": retained[..., -1],
    }
    return read, (read if closing else raw).at(-1), extra


def _start_row(like_NGP: Tensor) -> Tensor:
    """1 in row 0 and 0 after it: without momentum, only the start still has the old gradient."""
    start = torch.zeros_like(like_NGP)
    start[..., 0] = 1
    return start[..., None]
