"""The scalars of the chunk-parallel form: how much of what is in W and S at every update point.

Everything here follows from the gates, never from the state, so it is computed for all chunks at
once.

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

    def to(self, dtype: torch.dtype) -> Rows:
        """Rounded to what they are multiplied with."""
        parts = (self.reference, self.keep, self.momentum, self.step)
        return Rows(*(None if part is None else part.to(dtype) for part in parts))

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

    Its last row is what the next segment starts from. ``points`` (U): the tokens at which updates
    are due; ``valid`` (N, J) those that exist, None where all do.
    ``momentum_keep`` (N, G, P), ``momentum_step`` (N, G, P, J): S_p. ``token_rows`` (X): the row
    every token reads. For `muon`, which forms S_p itself: ``window`` (U, c) the tokens of every
    update's window, ``window_weight`` (N, G, U, c) their weights, ``momentum_blend`` (N, G, U, U)
    the weight of G_p' in S_p and ``blend`` (N, G, P, U) that of O(S_p') in W_p; ``writes`` (N, G)
    whether any rate is above 0, ``may_skip`` whether those that do not write may be left out.
    ``channel_keep`` (N, G, D, U): the keep-rates per feature, for which the others hold 1.
    """

    read: Rows
    momentum_keep: Tensor
    momentum_step: Tensor
    token_rows: Tensor
    window: Tensor
    window_weight: Tensor
    momentum_blend: Tensor
    blend: Tensor
    writes: Tensor
    may_skip: bool
    points: Tensor
    valid: Tensor | None
    channel_keep: Tensor | None = None


def coefficients(
    spec: MemorySpec,
    windows: dict[str, Tensor],
    state: MemoryState,
    size: int,
    padded: int,
) -> Coefficients:
    """All coefficients of a segment of ``size`` tokens a chunk that starts where ``state`` is.

    ``windows``: the gates as (N, G, J). ``padded``: tokens in front of the sequence's first.
    """
    chunks, _, tokens = windows["rate"].shape
    device = windows["rate"].device
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

    read = Rows(None, _first(kept, 1), None if used is None else _first(used, 0), _row(step))
    return Coefficients(
        read=read,
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
        points=points,
        valid=valid_NJ,
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
