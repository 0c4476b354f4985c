"""Chunks of `muon`: S at a chunk's update points, orthogonalised as one batch, and the reads.

Legend: N chunks, G = batch x heads, U update points of a chunk, P = U + 1 (version 0 is its start),
c tokens of a window, X tokens that read, K key size, D features, V value size, O and I the rows and
columns of a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.chunkwise.coefficients import Coefficients
from atlas_bench.memory.chunkwise.held import hold_gradient
from atlas_bench.memory.chunkwise.scan import scan
from atlas_bench.memory.chunkwise.segment import Segment, Weights, named, outer_sum, times
from atlas_bench.memory.networks import forward, gradient_factors
from atlas_bench.memory.newton_schulz import orthogonalise, orthogonalise_backward
from atlas_bench.memory.spec import MemorySpec

# The backward pass recomputes the chunks only if keeping them would take more than KEPT_BYTES.
# Autograd keeps KEPT_MATRICES matrices of a weight's size for every update.
KEPT_BYTES = 2**29
KEPT_MATRICES = 9


def run_muon(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V), and W and S after the segment."""
    rows = x.rows
    inputs = (
        x.q_NGXK,
        x.phi_q_NGXD,
        x.k_NGJK,
        x.phi_k_NGJD,
        x.v_NGJV,
        rows.read.keep,
        rows.blend,
        rows.momentum_keep,
        rows.momentum_blend,
        rows.window_weight,
        rows.momentum_step[..., -1, :],
        rows.writes,
    )
    names = spec.weight_names
    count = len(names)

    def step(state: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        writes = inputs[-1]
        busy = writes.nonzero().flatten() if rows.may_skip else None
        if busy is None or len(busy) == len(writes):
            return muon(state, inputs, busy=True)
        if len(busy) == 0:
            return muon(state, inputs, busy=False)
        idle = (~writes).nonzero().flatten()
        place = torch.cat([busy, idle]).argsort()
        parts = [
            muon(
                tuple(t[index] for t in state), tuple(t[index] for t in inputs), busy=index is busy
            )
            for index in (busy, idle)
        ]
        return tuple(
            tuple(torch.cat(pair)[place] for pair in zip(*group, strict=True))
            for group in zip(*parts, strict=True)
        )

    def muon(state: tuple, inputs: tuple, busy: bool) -> tuple[tuple, tuple]:
        # Only for W: the gradient of S is what it got from W and less than what it got from S.
        held = (hold_gradient(weight) for weight in state[:count])
        weights, momentum = named(spec, (*held, *state[count : 2 * count]))
        chunk_start_weights = dict(zip(names, state[2 * count :], strict=False)) or weights
        chunk = _muon_chunk if busy else _idle_chunk
        y, weights, momentum = chunk(
            spec, weights, momentum, chunk_start_weights, inputs, rows, x.place
        )
        return (*weights.values(), *momentum.values(), *state[2 * count :]), (y,)

    start = (*x.weights.values(), *x.momentum.values())
    start += () if x.place == 0 else tuple(x.chunk_start_weights.values())
    chunks, updates = rows.blend.shape[0], rows.blend.shape[-1]
    kept = KEPT_MATRICES * chunks * updates * sum(w.numel() for w in x.weights.values())
    recompute = kept * rows.blend.element_size() > KEPT_BYTES
    last, _, (y,) = scan(step, start, inputs, starts=False, recompute=recompute)
    return (y, *named(spec, last[: 2 * count]))


def _muon_chunk(
    spec: MemorySpec,
    weights: Weights,
    momentum: Weights,
    chunk_start_weights: Weights,
    inputs: tuple[Tensor, ...],
    rows: Coefficients,
    place: int,
) -> tuple[Tensor, Weights, Weights]:
    """One segment: S at its update points, orthogonalised as one batch, and each token's read."""
    q, phi_q, k, phi_k, v, keep, blend, keep_momentum, momentum_blend, window_weight, *_ = inputs
    factors, _ = gradient_factors(spec, chunk_start_weights, phi_k, k, v)
    window = rows.window
    versions, new_weights, new_momentum = {}, {}, {}
    for name, weight in weights.items():
        if not window.shape[0]:
            versions[name], new_weights[name] = weight[:, None], weight
            new_momentum[name] = momentum[name]
            continue
        left, right = (
            part.index_select(1, window.flatten()).unflatten(1, window.shape)
            for part in factors[name]
        )
        versions[name], new_weights[name], new_momentum[name] = _MuonUpdates.apply(
            weight,
            momentum[name],
            left * window_weight[..., None].to(left.dtype),
            right,
            keep.to(weight.dtype),
            blend.to(weight.dtype),
            keep_momentum[:, 1:].to(weight.dtype),
            momentum_blend.to(weight.dtype),
            (spec.newton_schulz_steps, spec.newton_schulz_coefficients, v.dtype),
        )
    y = read_versions(spec, versions, phi_q, q, v.shape[-1], place)
    return y, new_weights, new_momentum


class _MuonUpdates(torch.autograd.Function):
    """The updates of one weight: W at every version (G, P, O, I), and the last W and S (G, O, I).

    W, S (G, O, I); left (G, U, c, O), right (G, U, c, I): factors of the gradients, by update;
    keep (G, P), blend (G, P, U), keep_momentum (G, U), momentum_blend (G, U, U): Coefficients.
    Autograd would walk through every (G, U, O, I) three times as often as this backward pass.
    """

    @staticmethod
    def forward(
        ctx,
        weight: Tensor,
        momentum: Tensor,
        left: Tensor,
        right: Tensor,
        keep: Tensor,
        blend: Tensor,
        keep_momentum: Tensor,
        momentum_blend: Tensor,
        how: tuple[int, str, torch.dtype],
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups, updates = left.shape[:2]
        flat_weight, flat_momentum = weight.flatten(1)[:, None], momentum.flatten(1)[:, None]
        left, right = left.flatten(0, 1), right.flatten(0, 1)
        gradients = torch.bmm(left.mT, right).to(weight.dtype).view(groups, updates, -1)
        # S_p as sums of the window's gradients before it, W_p as sums of the O(S) before it.
        momenta = torch.bmm(keep_momentum[..., None], flat_momentum)
        momenta = momenta.baddbmm_(momentum_blend, gradients)
        orthogonal, (normal, norm, schedule, *iterates) = orthogonalise(
            momenta.view(-1, *weight.shape[1:]), *how
        )
        orthogonal = orthogonal.reshape(groups, updates, -1)
        versions = torch.bmm(keep[..., None], flat_weight)
        versions = versions.baddbmm_(blend, orthogonal, alpha=-1)
        ctx.schedule = schedule
        ctx.save_for_backward(
            flat_weight, flat_momentum, left, right, keep, blend, keep_momentum, momentum_blend,
            gradients, orthogonal, normal, norm, *iterates,
        )  # fmt: skip
        last_momentum = momenta[:, -1].view_as(momentum).clone()
        last_weight = versions[:, -1].view_as(weight).clone()
        return versions.unflatten(-1, weight.shape[1:]), last_weight, last_momentum

    @staticmethod
    def backward(
        ctx, grad_versions: Tensor, grad_weight: Tensor, grad_momentum: Tensor
    ) -> tuple[Tensor | None, ...]:
        (
            weight, momentum, left, right, keep, blend, keep_momentum, momentum_blend,
            gradients, orthogonal, normal, norm, *iterates,
        ) = ctx.saved_tensors  # fmt: skip
        matrix = grad_weight.shape[1:]
        grad_versions = grad_versions.flatten(2).clone()
        grad_versions[:, -1] += grad_weight.flatten(1)
        grad_orthogonal = torch.bmm(blend.mT, grad_versions).neg_()
        grad_momenta = orthogonalise_backward(
            grad_orthogonal.view(-1, *matrix), (normal, norm, ctx.schedule, *iterates)
        ).view_as(gradients)
        grad_momenta[:, -1] += grad_momentum.flatten(1)
        grad_gradients = torch.bmm(momentum_blend.mT, grad_momenta)
        grad_gradients = grad_gradients.view(-1, *matrix).to(left.dtype)
        factors = (*gradients.shape[:2], -1)
        return (
            torch.bmm(keep[:, None], grad_versions).view(-1, *matrix),
            torch.bmm(keep_momentum[:, None], grad_momenta).view(-1, *matrix),
            torch.bmm(right, grad_gradients.mT).unflatten(0, factors[:2]),
            torch.bmm(left, grad_gradients).unflatten(0, factors[:2]),
            torch.bmm(grad_versions, weight.mT)[..., 0],
            torch.bmm(grad_versions, orthogonal.mT).neg_(),
            torch.bmm(grad_momenta, momentum.mT)[..., 0],
            torch.bmm(grad_momenta, gradients.mT),
            None,
        )


def _idle_chunk(
    spec: MemorySpec,
    weights: Weights,
    momentum: Weights,
    chunk_start_weights: Weights,
    inputs: tuple[Tensor, ...],
    rows: Coefficients,
    place: int,
) -> tuple[Tensor, Weights, Weights]:
    """One segment whose rates are all 0: W only decays, and nothing is orthogonalised."""
    q, phi_q, k, phi_k, v, keep, _, keep_momentum, _, _, sigma, _ = inputs
    factors, _ = gradient_factors(spec, chunk_start_weights, phi_k, k, v)
    keep_token = keep.index_select(-1, rows.token_rows)[..., None].to(q.dtype)

    def linear(name: str, query: Tensor) -> Tensor:
        return keep_token * (query @ weights[name].to(query.dtype).mT)

    y = forward(spec, linear, phi_q, q, v.shape[-1])
    new_weights = {name: times(keep[:, -1], w) for name, w in weights.items()}
    new_momentum = {
        name: times(keep_momentum[:, -1], s) + outer_sum(factors[name][0], sigma, factors[name][1])
        for name, s in momentum.items()
    }
    return y, new_weights, new_momentum


def read_versions(
    spec: MemorySpec,
    versions: Weights,
    phi_q_GXD: Tensor,
    q_GXK: Tensor,
    values: int,
    place: int,
    gain: Tensor | None = None,
) -> Tensor:
    """Every token reads the latest version: versions (G, P, O, I) -> (G, X, V).

    The ``update_every`` tokens from one update to the next read the same version, so the tokens
    divide evenly among the versions once the first group is padded.
    """
    every = spec.update_every
    count = versions["W1"].shape[1]
    front = place % every + 1
    tokens = q_GXK.shape[1]

    def group(x_GXD: Tensor) -> Tensor:
        padding = (0, 0, front, count * every - front - tokens)
        return torch.nn.functional.pad(x_GXD, padding).unflatten(1, (count, every))

    def linear(name: str, query: Tensor) -> Tensor:
        return query @ versions[name].to(query.dtype).mT

    gain = None if gain is None else gain[:, None]
    y = forward(spec, linear, group(phi_q_GXD), group(q_GXK), values, gain=gain)
    return y.flatten(1, 2)[:, front : front + tokens]
