"""The recurrence over whole chunks of a two-layer memory, with its backward pass by hand.

What `chunked_linear.py` does for every network through autograd, here in a third of the operations:
chunks are small and many, so that their number is what a CPU's time goes into. W and S of one
weight are one tensor, [W; S], and a chunk is

    A = phi W2'   H = gelu(A)   E = H W1' - target (dot: -v)   L = (E W1) gelu'(A)
    [W1; S1] <- mix [W1; S1] + (c E)' H        [W2; S2] <- mix [W2; S2] + (c L)' phi

mix = [[keep, -used], [0, keep_momentum]], c_j = (-step_j, sigma_j); without momentum both are one
number. The backward pass recomputes a chunk from its start. Legend: chunked.py; M is 2, or 1
without momentum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atlas_bench.memory.bounded import kernel, shrink
from atlas_bench.memory.segment import Segment
from atlas_bench.memory.spec import MemorySpec


def applies(spec: MemorySpec, x: Segment) -> bool:
    """Whether this file computes what ``spec`` asks for: in one type, with no gradient of rho."""
    constant = not spec.is_bounded or spec.bounded_by == "network"
    same = x.phi_k_NGJD.dtype == x.weights["W1"].dtype
    return spec.network == "mlp" and not spec.branch_norm and constant and same


def mlp_scan(
    spec: MemorySpec, x: Segment, carry: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(W1, W2, S1, S2) after all chunks, and the same (N, ...) at the start of each.

    ``carry``: keep (N, G), used (N, G), step (N, G, J), keep_momentum (N, G), sigma (N, G, J).
    """
    keep, used, step, keep_momentum, sigma = carry
    if spec.has_momentum:
        row = torch.stack([keep, -used], -1)
        mix = torch.stack([row, torch.stack([torch.zeros_like(keep), keep_momentum], -1)], -2)
        scale = torch.stack([-step, sigma], -1)
    else:
        mix, scale = keep[..., None, None], -step[..., None]
    targets = x.v_NGJV
    if spec.objective == "l2" and x.k_NGJK.shape[-1] == targets.shape[-1]:
        targets = targets - x.k_NGJK
    seen = None if x.bound is None else x.bound.seen[..., -1, :].expand_as(step)
    groups = [x.weights, x.momentum] if spec.has_momentum else [x.weights]
    states = [torch.cat([group[name] for group in groups], 1) for name in ("W1", "W2")]
    inputs = (x.phi_k_NGJD, targets, mix, scale)
    last_1, last_2, starts_1, starts_2 = _MlpScan.apply(spec, seen, *states, *inputs)
    parts = len(groups)
    last = [last_1.chunk(parts, 1), last_2.chunk(parts, 1)]
    starts = [starts_1.chunk(parts, 2), starts_2.chunk(parts, 2)]
    in_order = [(weight, part) for part in range(parts) for weight in range(2)]
    return tuple(last[w][p] for w, p in in_order), tuple(starts[w][p] for w, p in in_order)


def _gradients(spec: MemorySpec, w1: Tensor, w2: Tensor, phi: Tensor, target: Tensor) -> tuple:
    """A, H, gelu'(A), E, E W1 and L of one chunk."""
    a = phi @ w2.mT
    h = torch.nn.functional.gelu(a)
    slope = torch.ops.aten.gelu_backward(torch.ones_like(a), a)
    error = torch.baddbmm(target, h, w1.mT, beta=-1) if spec.objective == "l2" else -target
    back = error @ w1
    return a, h, slope, error, back, back * slope


def _spread(factor: Tensor, scale: Tensor) -> Tensor:
    """c E: (G, J, O), (G, J, M) -> (G, J, M O)."""
    return (factor[:, :, None] * scale[..., None]).flatten(2)


def _mixed(mix: Tensor, state: Tensor) -> Tensor:
    """(G, M, M) times the M parts of (G, M O, I)."""
    if mix.shape[-1] == 1:
        return mix * state
    return torch.bmm(mix, state.view(*mix.shape[:2], -1)).view_as(state)


class _MlpScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        spec: MemorySpec,
        seen: Tensor | None,
        state_1: Tensor,
        state_2: Tensor,
        phi: Tensor,
        target: Tensor,
        mix: Tensor,
        scale: Tensor,
    ) -> tuple[Tensor, ...]:
        values, hidden = target.shape[-1], state_2.shape[1] // mix.shape[-1]
        starts_1, starts_2, factors = [], [], []
        for n in range(phi.shape[0]):
            starts_1.append(state_1)
            starts_2.append(state_2)
            w1, w2 = state_1[:, :values], state_2[:, :hidden]
            _, h, _, error, _, left = _gradients(spec, w1, w2, phi[n], target[n])
            chunk_mix, chunk_scale = mix[n], scale[n]
            if seen is not None:
                near = kernel(spec, phi[n], {"W1": (error, h), "W2": (left, phi[n])}, error)
                factor = shrink(spec, chunk_scale[:, None, :, 0], near, seen[n][:, None])[:, 0]
                factors.append(factor)
                chunk_mix, chunk_scale = _slowed(chunk_mix, chunk_scale, factor)
            state_1 = _mixed(chunk_mix, state_1).baddbmm(_spread(error, chunk_scale).mT, h)
            state_2 = _mixed(chunk_mix, state_2).baddbmm(_spread(left, chunk_scale).mT, phi[n])
        ctx.spec, ctx.bounded = spec, seen is not None
        starts_1, starts_2 = torch.stack(starts_1), torch.stack(starts_2)
        more = [torch.stack(factors)] if factors else []
        ctx.save_for_backward(starts_1, starts_2, phi, target, mix, scale, *more)
        return state_1, state_2, starts_1, starts_2

    @staticmethod
    def backward(
        ctx, grad_1: Tensor, grad_2: Tensor, grad_starts_1: Tensor, grad_starts_2: Tensor
    ) -> tuple[Tensor | None, ...]:
        starts_1, starts_2, phi, target, mix, scale, *factors = ctx.saved_tensors
        spec, values = ctx.spec, target.shape[-1]
        hidden = starts_2.shape[2] // mix.shape[-1]
        grad_phi, grad_target = torch.empty_like(phi), torch.empty_like(target)
        grad_mix, grad_scale = torch.empty_like(mix), torch.empty_like(scale)
        for n in reversed(range(phi.shape[0])):
            state_1, state_2 = starts_1[n], starts_2[n]
            w1, w2 = state_1[:, :values], state_2[:, :hidden]
            a, h, slope, error, back, left = _gradients(spec, w1, w2, phi[n], target[n])
            chunk_mix, chunk_scale = mix[n], scale[n]
            if ctx.bounded:
                chunk_mix, chunk_scale = _slowed(chunk_mix, chunk_scale, factors[0][n])
            # Through the two updates.
            wide_1, wide_2 = h @ grad_1.mT, phi[n] @ grad_2.mT
            grad_h = _spread(error, chunk_scale) @ grad_1
            to_phi = _spread(left, chunk_scale) @ grad_2
            wide_1, wide_2 = (w.unflatten(2, (scale.shape[-1], -1)) for w in (wide_1, wide_2))
            grad_error = (wide_1 * chunk_scale[..., None]).sum(2)
            grad_left = (wide_2 * chunk_scale[..., None]).sum(2)
            to_scale = (wide_1 @ error[..., None] + wide_2 @ left[..., None])[..., 0]
            to_mix = _mix_gradient(grad_1, state_1, mix) + _mix_gradient(grad_2, state_2, mix)
            grad_1 = _mixed(chunk_mix.mT, grad_1) + grad_starts_1[n]
            grad_2 = _mixed(chunk_mix.mT, grad_2) + grad_starts_2[n]
            # Through L = (E W1) gelu'(A), E = H W1' - target, H = gelu(A) and A = phi W2'.
            grad_back = grad_left * slope
            grad_error = grad_error.baddbmm(grad_back, w1.mT)
            grad_w1 = grad_1[:, :values]
            grad_w1 += error.mT @ grad_back
            if spec.objective == "l2":
                grad_h = grad_h.baddbmm(grad_error, w1)
                grad_w1 += grad_error.mT @ h
            grad_a = grad_h * slope + grad_left * back * _second_derivative(a)
            grad_2[:, :hidden] += grad_a.mT @ phi[n]
            grad_phi[n] = to_phi.baddbmm(grad_a, w2)
            grad_target[n] = -grad_error
            grad_mix[n], grad_scale[n] = to_mix, to_scale
        if ctx.bounded:  # which the outer gradient takes for a constant
            grad_mix, grad_scale = _slowed(grad_mix, grad_scale, factors[0])
        return None, None, grad_1, grad_2, grad_phi, grad_target, grad_mix, grad_scale


def _second_derivative(a: Tensor) -> Tensor:
    """gelu''(a) = (2 - a^2) exp(-a^2 / 2) / sqrt(2 pi)."""
    square = a * a
    return torch.exp(-0.5 * square).mul_(1 / math.sqrt(2 * math.pi)).mul_(2 - square)


def _mix_gradient(grad: Tensor, state: Tensor, mix: Tensor) -> Tensor:
    parts = (grad.shape[0], mix.shape[-1], -1)
    return grad.reshape(parts) @ state.reshape(parts).mT


def _slowed(mix: Tensor, scale: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """The bounded step: all but ``keep`` times the factor, momentum included."""
    weights = torch.ones_like(mix) * factor[..., None, None]
    weights[..., 0, 0] = 1
    return mix * weights, scale * factor[..., None, None]
