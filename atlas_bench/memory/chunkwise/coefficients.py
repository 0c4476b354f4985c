"""The scalars of the chunk-parallel form: how much of each term W and S hold at each update point.

They follow from the gates and not from the state, so they are computed for all chunks at once.

Legend: N chunks, G = batch x heads, U update points of the segment, P = U + 1 (row 0 is the
segment's start), J tokens that are learnt from, X tokens of the segment, c tokens of a window, D
features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_bench.memory.spec import MemorySpec, MemoryState


class _DecayProducts(torch.autograd.Function):
    """L[p, r] = g_{r+1} ... g_p for r <= p (1 on the diagonal), 0 above: (..., U) -> (..., U, U).

    Unlike sums of logarithms it is exact, forward and backward, for gates that are exactly 0.
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
    """(..., U) -> L of `_DecayProducts` (..., U, U), and the products g_1 ... g_p (..., U)."""
    if not gate.shape[-1]:
        return gate.new_zeros(*gate.shape, 0), gate
    products = _DecayProducts.apply(gate)
    return products, products[..., 0] * gate[..., :1]


@dataclass(frozen=True)
class Rows:
    """The coefficients in the weights that are read; a term that is 0 everywhere is None.

    W_read = chunk_start W_start + keep W - momentum S - sum_j step_j u_j, where W_start are the
    weights at the chunk's start, W and S the state at the segment's start and u_j the gradients.
    """

    chunk_start: Tensor | None
    keep: Tensor
    momentum: Tensor | None
    step: Tensor

    def to(self, dtype: torch.dtype) -> Rows:
        """The same in the type that they are multiplied with."""
        parts = (self.chunk_start, self.keep, self.momentum, self.step)
        return Rows(*(None if part is None else part.to(dtype) for part in parts))

    def at(self, index: int | Tensor) -> Rows:
        """The rows of one update point (int), or of several (index tensor), along P."""
        if isinstance(index, int):
            vector, matrix = (lambda x: x[..., index]), (lambda x: x[..., index, :])
        else:
            vector = lambda x: x.index_select(-1, index)  # noqa: E731
            matrix = lambda x: x.index_select(-2, index)  # noqa: E731
        return Rows(
            None if self.chunk_start is None else vector(self.chunk_start),
            vector(self.keep),
            None if self.momentum is None else vector(self.momentum),
            matrix(self.step),
        )


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of one segment.

    read             (N, G, P) and (N, G, P, J): the weights that are read after update point p; the
                     next segment starts from the last row
    momentum_keep    (N, G, P): how much of S is in S_p
    momentum_step    (N, G, P, J): how much of each gradient is in S_p
    token_rows       (X): the row that each token reads
    points           (U): the tokens at which updates are due
    valid            (N, J): the tokens that exist; None if all do
    channel_keep     (N, G, D, U): the keep-rates per feature, if there are any; then the scalar
                     keep-rates in the other fields are 1

    For `muon`, which forms S_p itself:

    window           (U, c): the tokens of each update's window
    window_weight    (N, G, U, c): their weights
    momentum_blend   (N, G, U, U): the weight of G_p' in S_p
    blend            (N, G, P, U): the weight of O(S_p') in W_p
    writes           (N, G): whether any rate is above 0
    may_skip         whether chunks that do not write may be left out
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
    """All coefficients of a segment with ``size`` tokens per chunk that starts at ``state``.

    ``windows``: the gates as (N, G, J). ``padded``: padding tokens before the sequence's first.
    """
    chunks, _, tokens = windows["rate"].shape
    device = windows["rate"].device
    before, every = tokens - size, spec.update_every
    place = state.position % spec.chunk
    # Computed on the device: copying a list to a GPU waits for all its work.
    first = min(size, every - 1 - place % every)
    points = torch.arange(before + first, before + size, every, device=device)
    token_rows = torch.arange(place + 1, place + size + 1, device=device) // every - place // every
    valid_NJ = _valid(chunks, tokens, size, padded, device)

    retain = windows["retain"]
    channel_keep = None
    if retain.dim() == 4:  # per feature: channel.py uses them, and the scalar ones are 1
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
    inside = window >= 0  # the first windows of a sequence are short
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
        # A skipped rate of 0 gets no gradient, which is right where its gate is flat. On a GPU,
        # choosing among groups costs more than it saves.
        may_skip=device.type == "cpu" and (spec.gate == "hard_sigmoid" or not eta.requires_grad),
        points=points,
        valid=valid_NJ,
    )


def _first(x_NGU: Tensor, value: float) -> Tensor:
    """Add row 0, the segment's start, with ``value``: (N, G, P)."""
    return torch.nn.functional.pad(x_NGU, (1, 0), value=value)


def _row(x_NGUJ: Tensor) -> Tensor:
    """Add row 0, the segment's start, with zeros: (N, G, P, J)."""
    return torch.nn.functional.pad(x_NGUJ, (0, 0, 1, 0))


def _valid(chunks: int, tokens: int, size: int, padded: int, device: torch.device) -> Tensor | None:
    """Which of the window's tokens exist, (N, J); None if all do."""
    if padded == 0:
        return None
    first = torch.arange(chunks, device=device)[:, None] * size
    return first + torch.arange(tokens, device=device) >= padded


def _since_last(gate_NGJ: Tensor, points: Tensor, every: int) -> Tensor:
    """The gates of the ``every`` tokens up to each update point: (N, G, U, every)."""
    index = points[:, None] + torch.arange(1 - every, 1, device=points.device)
    return gate_NGJ[..., index.flatten()].unflatten(-1, index.shape)


def _window_matrix(
    spec: MemorySpec, weight: Tensor, points: Tensor, tokens: int, valid_NJ: Tensor | None
) -> Tensor:
    """gamma for every update point and token, 0 outside the window: (N, G, U, J)."""
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
