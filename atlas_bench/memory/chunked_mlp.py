"""Whole chunks of a two-layer memory, written and read, with the backward pass by hand.

What `chunked_linear.py` does for every network through autograd, here in a fraction of the
operations and with a chunk's weights still in cache when they are read: chunks are small and many.
W and S of one weight are one tensor, [W; S], and a chunk is

    A = phi_k W2'   H = gelu(A)   E = H W1' - target (dot: -v)   L = (E W1) gelu'(A)
    [W1; S1] <- mix [W1; S1] + (c E)' H             [W2; S2] <- mix [W2; S2] + (c L)' phi_k
    Z = r . phi_q [W2; S2]' - (R * phi_q phi_k') L       Q = gelu(Z)
    y = r . Q [W1; S1]' - (R * Q H') E

mix = [[keep, -used], [0, keep_momentum]], c_j = (-step_j, sigma_j), r = (keep, -used) and R = step
as every token sees them; without momentum all are one number. The backward pass recomputes a chunk
from its start. Legend: chunked.py; M is 2, or 1 without momentum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu

from atlas_bench.memory.bounded import kernel, shrink
from atlas_bench.memory.segment import Segment, Weights, named
from atlas_bench.memory.spec import MemorySpec


def applies(spec: MemorySpec, x: Segment) -> bool:
    """Whether this file computes what ``spec`` asks for: in one type, with no gradient of rho."""
    constant = not spec.is_bounded or spec.bounded_by == "network"
    same = x.phi_k_NGJD.dtype == x.weights["W1"].dtype
    return spec.network == "mlp" and not spec.branch_norm and constant and same


def run_mlp(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V) of whole chunks, and W and S after them."""
    rows = x.rows
    read, carry = rows.read.at(rows.token_rows), rows.read.at(-1)
    if spec.has_momentum:
        zero, slow = torch.zeros_like(carry.keep), rows.momentum_keep[..., -1]
        mix = torch.stack([carry.keep, -carry.momentum, zero, slow], -1).unflatten(-1, (2, 2))
        scale = torch.stack([-carry.step, rows.momentum_step[..., -1, :]], -1)
        seen_by = torch.stack([read.keep, -read.momentum], -1)
    else:
        mix, scale = carry.keep[..., None, None], -carry.step[..., None]
        seen_by = read.keep[..., None]
    residual = x.k_NGJK.shape[-1] == x.values
    targets = x.v_NGJV
    if spec.objective == "l2" and residual:
        targets = targets - x.k_NGJK
    groups = [x.weights, x.momentum] if spec.has_momentum else [x.weights]
    states = [torch.cat([group[name] for group in groups], 1) for name in ("W1", "W2")]
    inputs = (x.phi_q_NGXD, x.phi_k_NGJD, targets, mix, scale, seen_by, read.step)
    last_1, last_2, y = _MlpChunks.apply(spec, x.bound, rows.token_rows, *states, *inputs)
    parts = len(groups)
    last = [last_1.chunk(parts, 1), last_2.chunk(parts, 1)]
    weights, momentum = named(
        spec, tuple(last[weight][part] for part in range(parts) for weight in range(2))
    )
    return (y + x.q_NGXK if residual else y), weights, momentum


class _Written(NamedTuple):
    """What a chunk's tokens say about the weights at its start; module docstring."""

    a: Tensor
    h: Tensor
    slope: Tensor
    error: Tensor
    back: Tensor
    left: Tensor


def _write(spec: MemorySpec, w1: Tensor, w2: Tensor, phi: Tensor, target: Tensor) -> _Written:
    a = phi @ w2.mT
    h, slope = gelu(a), _slope(a)
    error = torch.baddbmm(target, h, w1.mT, beta=-1) if spec.objective == "l2" else -target
    back = error @ w1
    return _Written(a, h, slope, error, back, back * slope)


def _read(
    state: Tensor, query: Tensor, right: Tensor, left: Tensor, seen_by: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """r . query state' - (R * query right') left; and the two products in it."""
    old = (query @ state.mT).unflatten(2, (seen_by.shape[-1], -1))
    near = query @ right.mT
    y = old[:, :, 0] * seen_by[..., :1]
    if seen_by.shape[-1] == 2:
        y = torch.addcmul(y, old[:, :, 1], seen_by[..., 1:])
    return y.baddbmm(near * step, left, alpha=-1), old, near


def _read_backward(
    grad: Tensor,
    state: Tensor,
    query: Tensor,
    right: Tensor,
    left: Tensor,
    seen_by: Tensor,
    step: Tensor,
    old: Tensor,
    near: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the arguments of `_read`, in their order."""
    to_weighed = (grad @ left.mT).neg_()
    to_near = to_weighed * step
    to_old = _spread(grad, seen_by)
    to_query = (to_old @ state).baddbmm(to_near, right)
    to_left = ((near * step).mT @ grad).neg_()
    to_seen = (old @ grad[..., None])[..., 0]
    to_state = to_old.mT @ query
    return to_state, to_query, to_near.mT @ query, to_left, to_seen, to_weighed * near


def _slope(a: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(torch.ones_like(a), a)


def _second_derivative(a: Tensor) -> Tensor:
    """gelu''(a) = (2 - a^2) exp(-a^2 / 2) / sqrt(2 pi)."""
    square = a * a
    return torch.exp(-0.5 * square).mul_(1 / math.sqrt(2 * math.pi)).mul_(2 - square)


def _spread(factor: Tensor, scale: Tensor) -> Tensor:
    """c E: (G, J, O), (G, J, M) -> (G, J, M O)."""
    return (factor[:, :, None] * scale[..., None]).flatten(2)


def _mixed(mix: Tensor, state: Tensor) -> Tensor:
    """(G, M, M) times the M parts of (G, M O, I)."""
    if mix.shape[-1] == 1:
        return mix * state
    return torch.bmm(mix, state.view(*mix.shape[:2], -1)).view_as(state)


def _mix_gradient(grad: Tensor, state: Tensor, mix: Tensor) -> Tensor:
    parts = (grad.shape[0], mix.shape[-1], -1)
    return grad.reshape(parts) @ state.reshape(parts).mT


def _slowed(
    mix: Tensor, scale: Tensor, seen_by: Tensor, step: Tensor, factor: Tensor, token_rows: Tensor
) -> tuple[Tensor, ...]:
    """The bounded step: all but ``keep`` times the factor (..., P) of the row it belongs to."""
    last, here = factor[..., -1:, None], factor.index_select(-1, token_rows)[..., None]
    weights = torch.cat([torch.ones_like(last), last.expand(*last.shape[:-1], 3)], -1)
    mix = mix * weights.unflatten(-1, (2, 2))[..., 0, :, :] if mix.shape[-1] == 2 else mix
    seen_weights = torch.cat([torch.ones_like(here), here], -1)[..., : seen_by.shape[-1]]
    return mix, scale * last, seen_by * seen_weights, step * here


class _MlpChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, spec: MemorySpec, bound, token_rows: Tensor, state_1: Tensor, state_2: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        phi_q, phi, target, *gates = inputs
        values, hidden = target.shape[-1], state_2.shape[1] // gates[0].shape[-1]
        starts_1, starts_2, factors, outputs = [], [], [], []
        for n in range(phi.shape[0]):
            starts_1.append(state_1)
            starts_2.append(state_2)
            w = _write(spec, state_1[:, :values], state_2[:, :hidden], phi[n], target[n])
            mix, scale, seen_by, step = (gate[n] for gate in gates)
            if bound is not None:
                near = kernel(spec, phi[n], {"W1": (w.error, w.h), "W2": (w.left, phi[n])}, w.error)
                seen = bound.seen[n if len(bound.seen) > 1 else 0]
                factors.append(shrink(spec, bound.applied[n], near, seen))
                mix, scale, seen_by, step = _slowed(
                    mix, scale, seen_by, step, factors[-1], token_rows
                )
            z, _, _ = _read(state_2, phi_q[n], phi[n], w.left, seen_by, step)
            outputs.append(_read(state_1, gelu(z), w.h, w.error, seen_by, step)[0])
            state_1 = _mixed(mix, state_1).baddbmm(_spread(w.error, scale).mT, w.h)
            state_2 = _mixed(mix, state_2).baddbmm(_spread(w.left, scale).mT, phi[n])
        ctx.spec, ctx.bounded = spec, bound is not None
        starts = (torch.stack(starts_1), torch.stack(starts_2)) if _wanted(ctx) else ()
        more = (torch.stack(factors), token_rows) if factors else ()
        ctx.save_for_backward(*starts, *inputs, *more)
        return state_1, state_2, torch.stack(outputs)

    @staticmethod
    def backward(ctx, grad_1: Tensor, grad_2: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        starts_1, starts_2, phi_q, phi, target, *gates = ctx.saved_tensors[:9]
        factors = ctx.saved_tensors[9:]
        spec, values = ctx.spec, target.shape[-1]
        hidden = starts_2.shape[2] // gates[0].shape[-1]
        grads = [torch.empty_like(part) for part in (phi_q, phi, target, *gates)]
        for n in reversed(range(phi.shape[0])):
            state_1, state_2 = starts_1[n], starts_2[n]
            w1 = state_1[:, :values]
            w = _write(spec, w1, state_2[:, :hidden], phi[n], target[n])
            mix, scale, seen_by, step = (gate[n] for gate in gates)
            if ctx.bounded:
                mix, scale, seen_by, step = _slowed(
                    mix, scale, seen_by, step, factors[0][n], factors[1]
                )
            z, *products_2 = _read(state_2, phi_q[n], phi[n], w.left, seen_by, step)
            q = gelu(z)
            _, *products_1 = _read(state_1, q, w.h, w.error, seen_by, step)
            # Through what was read: y, then Z.
            to_1, to_q, to_h, to_error, to_seen, to_step = _read_backward(
                grad_y[n], state_1, q, w.h, w.error, seen_by, step, *products_1
            )
            to_2, to_phi_q, to_phi, to_left, more_seen, more_step = _read_backward(
                to_q * _slope(z), state_2, phi_q[n], phi[n], w.left, seen_by, step, *products_2
            )
            # Through the two updates.
            parts = (scale.shape[-1], -1)
            wide_1 = (w.h @ grad_1.mT).unflatten(2, parts)
            wide_2 = (phi[n] @ grad_2.mT).unflatten(2, parts)
            to_h = to_h.baddbmm(_spread(w.error, scale), grad_1)
            to_phi = to_phi.baddbmm(_spread(w.left, scale), grad_2)
            to_error = to_error + (wide_1 * scale[..., None]).sum(2)
            to_left = to_left + (wide_2 * scale[..., None]).sum(2)
            to_scale = (wide_1 @ w.error[..., None] + wide_2 @ w.left[..., None])[..., 0]
            to_mix = _mix_gradient(grad_1, state_1, mix) + _mix_gradient(grad_2, state_2, mix)
            grad_1 = _mixed(mix.mT, grad_1).add_(to_1)
            grad_2 = _mixed(mix.mT, grad_2).add_(to_2)
            # Through L = (E W1) gelu'(A), E = H W1' - target, H = gelu(A) and A = phi_k W2'.
            to_back = to_left * w.slope
            to_error = to_error.baddbmm(to_back, w1.mT)
            grad_w1 = grad_1[:, :values]
            grad_w1 += w.error.mT @ to_back
            if spec.objective == "l2":
                to_h = to_h.baddbmm(to_error, w1)
                grad_w1 += to_error.mT @ w.h
            to_a = torch.addcmul(to_h * w.slope, to_left * w.back, _second_derivative(w.a))
            grad_2[:, :hidden] += to_a.mT @ phi[n]
            to_phi = to_phi.baddbmm(to_a, state_2[:, :hidden])
            found = (to_phi_q, to_phi, -to_error, to_mix, to_scale)
            found += (to_seen + more_seen, to_step + more_step)
            for slot, grad in zip(grads, found, strict=True):
                slot[n] = grad
        if ctx.bounded:  # by a constant
            grads[3:] = _slowed(*grads[3:], *factors)
        return None, None, None, grad_1, grad_2, *grads


def _wanted(ctx) -> bool:
    return any(ctx.needs_input_grad)
