"""Chunks of `gd` and `momentum`: only the recurrence over chunks is sequential.

All reads are computed for all chunks at once.

Legend: N chunks, G = batch x heads, P update points of a chunk and its start, J tokens that are
learnt from, X tokens that read, V value size, O and I the rows and columns of a weight.
"""

from __future__ import annotations

from torch import Tensor

from atlas_bench.memory.bounded import shrink_factor, step_overlap
from atlas_bench.memory.chunkwise.scan import scan
from atlas_bench.memory.chunkwise.segment import Segment, Weights, named, outer_sum, times
from atlas_bench.memory.networks import Factors, forward, gradient_factors
from atlas_bench.memory.spec import MemorySpec


def run_linear(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V), and W and S after the segment."""
    rows, keep_momentum = x.rows, x.rows.momentum_keep[..., -1]
    sigma = x.rows.momentum_step[..., -1, :]
    start = (*x.weights.values(), *x.momentum.values())
    whole = x.v_NGJV.shape[0] > 1  # whole chunks: gradients are taken at the W of their starts
    if whole:
        carry = rows.read.at(-1)
        used = keep_momentum if carry.momentum is None else carry.momentum
        inputs = (carry.keep, used, carry.step, keep_momentum, sigma)
        inputs = (x.k_NGJK, x.phi_k_NGJD, x.v_NGJV, *inputs)
        more = dict(x.loss_inputs)
        if x.bound is not None:
            more["seen"] = x.bound.seen[..., -1, :].expand_as(sigma)
        names = tuple(more)

        def step(state: tuple, part: tuple) -> tuple[tuple, tuple]:
            first, rest = part[: len(inputs)], part[len(inputs) :]
            return _advance(spec, state, first, dict(zip(names, rest, strict=True))), ()

        last, starts, _ = scan(step, start, (*inputs, *more.values()), starts=True)
        weights, momentum = named(spec, starts)
        chunk_start_weights = weights
    else:
        weights, momentum = named(spec, tuple(w[None] for w in start))
        chunk_start_weights = {name: w[None] for name, w in x.chunk_start_weights.items()}
    factors, error = gradient_factors(
        spec, chunk_start_weights, x.phi_k_NGJD, x.k_NGJK, x.v_NGJV, **x.loss_inputs
    )
    read, carry, momentum_factor = rows.read, rows.read.at(-1), None
    if x.bound is not None:
        overlap = step_overlap(spec, x.phi_k_NGJD, factors, error)
        shrink = shrink_factor(spec, x.bound.applied, overlap, x.bound.seen)
        read, carry = x.bound.rows(shrink)
        momentum_factor = x.bound.momentum_factor(spec, shrink)
    if not whole:
        if momentum_factor is not None:
            keep_momentum = keep_momentum * momentum_factor
            sigma = sigma * momentum_factor[..., None]
        combined = _combine(
            weights, momentum, factors, carry.keep, carry.momentum, carry.step, keep_momentum, sigma
        )
        last = tuple(tensor[0] for tensor in combined)
        if carry.chunk_start is not None:
            added = (
                times(carry.chunk_start, chunk_start_weights[name])[0] for name in spec.weight_names
            )
            kept = [weight + more for weight, more in zip(last, added, strict=False)]
            last = (*kept, *last[len(kept) :])
    read = read.at(rows.token_rows).to(x.q_NGXK.dtype)

    def linear(name: str, query: Tensor) -> Tensor:
        left, right = factors[name]
        seen = read.keep[..., None] * (query @ weights[name].to(query.dtype).mT)
        if read.chunk_start is not None:
            old = query @ chunk_start_weights[name].to(query.dtype).mT
            seen = seen + read.chunk_start[..., None] * old
        if momentum:
            old = query @ momentum[name].to(query.dtype).mT
            seen = seen - read.momentum[..., None] * old
        return seen - ((query @ right.mT) * read.step) @ left

    y = forward(spec, linear, x.phi_q_NGXD, x.q_NGXK, x.values, gain=x.gain_NG1V)
    return (y, *named(spec, last))


def _advance(
    spec: MemorySpec, state: tuple, inputs: tuple, more: dict[str, Tensor]
) -> tuple[Tensor, ...]:
    """One whole chunk of the recurrence: (W..., S...) at its start -> at its end."""
    k, phi, v, keep, used, step, keep_momentum, sigma = inputs
    weights, momentum = named(spec, state)
    seen = more.pop("seen", None)
    factors, error = gradient_factors(spec, weights, phi, k, v, **more)
    if seen is not None:
        overlap = step_overlap(spec, phi, factors, error)
        shrink = shrink_factor(spec, step[:, None], overlap, seen[:, None])
        used, step = used * shrink[:, 0], step * shrink
        if spec.bounded_by == "network":
            keep_momentum, sigma = keep_momentum * shrink[:, 0], sigma * shrink
    return _combine(weights, momentum, factors, keep, used, step, keep_momentum, sigma)


def _combine(
    weights: Weights,
    momentum: Weights,
    factors: Factors,
    keep: Tensor,
    used: Tensor | None,
    step: Tensor,
    keep_momentum: Tensor,
    sigma: Tensor,
) -> tuple[Tensor, ...]:
    """keep W - used S - sum step u for every weight, then keep_momentum S + sum sigma u."""
    new_weights, new_momentum = [], []
    for name, weight in weights.items():
        left, right = factors[name]
        new = times(keep, weight) - outer_sum(left, step, right)
        if momentum:
            new = new - times(used, momentum[name])
            gradient = outer_sum(left, sigma, right)
            new_momentum.append(times(keep_momentum, momentum[name]) + gradient)
        new_weights.append(new)
    return (*new_weights, *new_momentum)
