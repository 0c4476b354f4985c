"""Chunks of `gd` and `momentum`: only the recurrence over chunks is sequential.

Everything that is read is computed for all chunks at once. Legend: chunked.py.
"""

from __future__ import annotations

from torch import Tensor

from atlas_bench.memory.bounded import kernel, shrink
from atlas_bench.memory.chunkwise.scan import scan
from atlas_bench.memory.chunkwise.segment import Segment, Weights, named, outer_sum, times
from atlas_bench.memory.networks import Factors, forward, gradient_factors
from atlas_bench.memory.spec import MemorySpec


def run_linear(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V), and W and S after the segment."""
    rows, keep_momentum = x.rows, x.rows.momentum_keep[..., -1]
    sigma = x.rows.momentum_step[..., -1, :]
    start = (*x.weights.values(), *x.momentum.values())
    whole = x.v_NGJV.shape[0] > 1  # chunks, where W_ref = W at the start of each
    if whole:
        carry = rows.read.at(-1)
        used = keep_momentum if carry.momentum is None else carry.momentum
        inputs = (carry.keep, used, carry.step, keep_momentum, sigma)
        inputs = (x.k_NGJK, x.phi_k_NGJD, x.v_NGJV, *inputs)
        if x.bound is not None:
            inputs += (x.bound.seen[..., -1, :].expand_as(sigma),)
        last, starts, _ = scan(
            lambda state, part: (_advance(spec, state, part), ()), start, inputs, starts=True
        )
        weights, momentum = named(spec, starts)
        reference = weights
    else:
        weights, momentum = named(spec, tuple(w[None] for w in start))
        reference = {name: w[None] for name, w in x.reference.items()}
    factors, error = gradient_factors(spec, reference, x.phi_k_NGJD, x.k_NGJK, x.v_NGJV)
    read, carry, slow = rows.read, rows.read.at(-1), None
    if x.bound is not None:
        near = kernel(spec, x.phi_k_NGJD, factors, error)
        factor = shrink(spec, x.bound.applied, near, x.bound.seen)
        (read, carry), slow = x.bound.rows(factor), x.bound.of_momentum(spec, factor)
    if not whole:
        if slow is not None:
            keep_momentum, sigma = keep_momentum * slow, sigma * slow[..., None]
        combined = _combine(
            weights, momentum, factors, carry.keep, carry.momentum, carry.step, keep_momentum, sigma
        )
        last = tuple(tensor[0] for tensor in combined)
        if carry.reference is not None:
            added = (times(carry.reference, reference[n])[0] for n in spec.weight_names)
            kept = [w + more for w, more in zip(last, added, strict=False)]
            last = (*kept, *last[len(kept) :])
    read = read.at(rows.token_rows).to(x.q_NGXK.dtype)

    def linear(name: str, query: Tensor) -> Tensor:
        left, right = factors[name]
        seen = read.keep[..., None] * (query @ weights[name].to(query.dtype).mT)
        if read.reference is not None:
            old = query @ reference[name].to(query.dtype).mT
            seen = seen + read.reference[..., None] * old
        if momentum:
            old = query @ momentum[name].to(query.dtype).mT
            seen = seen - read.momentum[..., None] * old
        return seen - ((query @ right.mT) * read.step) @ left

    y = forward(spec, linear, x.phi_q_NGXD, x.q_NGXK, x.values)
    return (y, *named(spec, last))


def _advance(spec: MemorySpec, state: tuple, inputs: tuple) -> tuple[Tensor, ...]:
    """One whole chunk of the recurrence: (W..., S...) at its start -> at its end."""
    k, phi, v, keep, used, step, keep_momentum, sigma, *seen = inputs
    weights, momentum = named(spec, state)
    factors, error = gradient_factors(spec, weights, phi, k, v)
    if seen:
        near = kernel(spec, phi, factors, error)
        factor = shrink(spec, step[:, None], near, seen[0][:, None])
        used, step = used * factor[:, 0], step * factor
        if spec.bounded_by == "network":
            keep_momentum, sigma = keep_momentum * factor[:, 0], sigma * factor
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
