"""Whole chunks of a two-layer memory, written and read, with the backward pass by hand.

`linear.py` does the same for every network through autograd. This form needs a fraction of the
operations, and a chunk's weights are still in cache when they are read: chunks are small and many.
W and S of one weight are one tensor, [W; S], and a chunk is

    A = phi_k W2'   H = gelu(A)   E = H W1' - target (dot: -v)   L = (E W1) gelu'(A)
    [W1; S1] <- mix [W1; S1] + (c E)' H             [W2; S2] <- mix [W2; S2] + (c L)' phi_k
    Z = r . phi_q [W2; S2]' - (R * phi_q phi_k') L       Q = gelu(Z)
    y = r . Q [W1; S1]' - (R * Q H') E

mix = [[keep, -used], [0, keep_momentum]], c_j = (-step_j, sigma_j), r = (keep, -used) and R = step
as each token sees them; without momentum each is one number. The backward pass recomputes a chunk
from its start.

Legend: N chunks, G = batch x heads, J tokens that are learnt from, X tokens that read, D features,
V value size, O and I the rows and columns of a weight, M = 2, or 1 without momentum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu

from atlas_bench.memory.bounded import shrink_factor, step_overlap
from atlas_bench.memory.chunkwise.bound import Bound
from atlas_bench.memory.chunkwise.segment import Segment, Weights, named
from atlas_bench.memory.networks import gelu_bend, gelu_slope
from atlas_bench.memory.spec import MemorySpec

# Size of the states whose chunks are read together: on a CPU they stay in cache, on a GPU a call
# costs more than what it computes.
BLOCK_BYTES, GPU_BLOCK_BYTES = 2**22, 2**28


def applies(spec: MemorySpec, x: Segment) -> bool:
    """Whether this form covers ``spec``: all in one type, and rho is a constant to the gradient."""
    constant = not spec.is_bounded or spec.bounded_by == "network"
    same = x.phi_k_NGJD.dtype == x.weights["W1"].dtype
    plain = spec.objective in ("l2", "dot") and not spec.branch_norm
    return spec.network == "mlp" and plain and constant and same


def run_mlp(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V) of whole chunks, and W and S after them."""
    rows = x.rows
    read, carry = rows.read.at(rows.token_rows), rows.read.at(-1)
    if spec.has_momentum:
        keep_momentum, zero = rows.momentum_keep[..., -1], torch.zeros_like(carry.keep)
        mix = torch.stack([carry.keep, -carry.momentum, zero, keep_momentum], -1)
        mix = mix.unflatten(-1, (2, 2))
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
    inputs = tuple(tensor.flatten(0, 1) for tensor in inputs)
    last_1, last_2, y = _MlpChunks.apply(spec, x.bound, rows.token_rows, *states, *inputs)
    y = y.unflatten(0, x.q_NGXK.shape[:2])
    parts = len(groups)
    last = [last_1.chunk(parts, 1), last_2.chunk(parts, 1)]
    weights, momentum = named(
        spec, tuple(last[weight][part] for part in range(parts) for weight in range(2))
    )
    return (y + x.q_NGXK if residual else y), weights, momentum


class _Written(NamedTuple):
    """The intermediate values of a chunk's write, in the letters of the module's docstring."""

    a: Tensor
    h: Tensor
    slope: Tensor
    error: Tensor
    back: Tensor
    left: Tensor


def _write(spec: MemorySpec, w1: Tensor, w2: Tensor, phi: Tensor, target: Tensor) -> _Written:
    a = torch.bmm(phi, w2.mT)
    h, slope = gelu(a), gelu_slope(a)
    error = torch.baddbmm(target, h, w1.mT, beta=-1) if spec.objective == "l2" else -target
    back = torch.bmm(error, w1)
    return _Written(a, h, slope, error, back, back * slope)


def _read(
    state: Tensor, query: Tensor, right: Tensor, left: Tensor, seen_by: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """r . query state' - (R * query right') left, and its products query state', query right'."""
    old = torch.bmm(query, state.mT).unflatten(2, (seen_by.shape[-1], -1))
    near = torch.bmm(query, right.mT)
    y = old[:, :, 0] * seen_by[..., :1]
    if seen_by.shape[-1] == 2:
        y.addcmul_(old[:, :, 1], seen_by[..., 1:])
    return y.baddbmm_(near * step, left, alpha=-1), old, near


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
    to_state: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of the arguments of `_read` in their order; the state's is put in ``to_state``."""
    to_weighed = torch.bmm(grad, left.mT).neg_()
    to_near = to_weighed * step
    to_old = _spread(grad, seen_by)
    to_query = torch.bmm(to_old, state).baddbmm_(to_near, right)
    to_left = torch.bmm((near * step).mT, grad).neg_()
    to_seen = (old * grad[:, :, None]).sum(-1)
    torch.bmm(to_old.mT, query, out=to_state)
    to_right = torch.bmm(to_near.mT, query)
    return to_query, to_right, to_left, to_seen, to_weighed.mul_(near)


def _spread(factor: Tensor, scale: Tensor) -> Tensor:
    """c E: (G, J, O), (G, J, M) -> (G, J, M O)."""
    return (factor[:, :, None] * scale[..., None]).flatten(2)


def _shrunk_carry(mix: Tensor, scale: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """The bounded step at a chunk's end: all but ``keep`` times the last row's factor."""
    last = factor[..., -1:, None]
    shrunk = mix * last
    shrunk[..., 0, 0] = mix[..., 0, 0]
    return shrunk, scale * last


def _shrunk_read(
    seen_by: Tensor, step: Tensor, factor: Tensor, token_rows: Tensor
) -> tuple[Tensor, Tensor]:
    """The bounded step for each token's read: times the factor of the row that it sees."""
    here = factor.index_select(-1, token_rows)[..., None]
    shrunk = seen_by * here
    shrunk[..., 0] = seen_by[..., 0]
    return shrunk, step * here


def _shrunk(gates: list[Tensor], factor: Tensor, token_rows: Tensor) -> list[Tensor]:
    """`_shrunk_carry` and `_shrunk_read` of (mix, scale, seen_by, step)."""
    mix, scale, seen_by, step = gates
    return [*_shrunk_carry(mix, scale, factor), *_shrunk_read(seen_by, step, factor, token_rows)]


class _Sizes(NamedTuple):
    """Sizes and slices. Chunk n is the rows n G to (n + 1) G of every input and of the states.

    Each block of chunks is read, and its reads differentiated, by one product.
    """

    groups: int
    chunks: int
    parts: int
    values: int
    hidden: int

    @classmethod
    def of(
        cls, state_1: Tensor, state_2: Tensor, phi: Tensor, target: Tensor, mix: Tensor
    ) -> _Sizes:
        groups, parts = state_1.shape[0], mix.shape[-1]
        chunks, hidden = phi.shape[0] // groups, state_2.shape[1] // parts
        return cls(groups, chunks, parts, target.shape[-1], hidden)

    def rows(self, first: int, last: int | None = None) -> slice:
        """The rows of the chunks ``first`` to before ``last``, or of the chunk ``first``."""
        last = first + 1 if last is None else last
        return slice(first * self.groups, last * self.groups)

    def blocks(self, *states: Tensor) -> list[range]:
        size = sum(state.numel() * state.element_size() for state in states)
        length = max(1, (BLOCK_BYTES if states[0].is_cpu else GPU_BLOCK_BYTES) // size)
        return [range(n, min(n + length, self.chunks)) for n in range(0, self.chunks, length)]

    def written(self, state_1: Tensor, state_2: Tensor) -> tuple[Tensor, Tensor]:
        """W1 and W2 of [W1; S1] and [W2; S2]."""
        return state_1[:, : self.values], state_2[:, : self.hidden]

    def by_part(self, state: Tensor) -> Tensor:
        """(G, M O, I) -> (G, M, O I), which `mix` multiplies."""
        return state.view(state.shape[0], self.parts, -1)


class _MlpChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, spec: MemorySpec, bound: Bound | None, token_rows: Tensor, state_1: Tensor,
        state_2: Tensor, *inputs: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        phi_q, phi, target, *gates = inputs
        sizes = _Sizes.of(state_1, state_2, phi, target, gates[0])
        blocks, training = sizes.blocks(state_1, state_2), any(ctx.needs_input_grad)
        # One state per chunk in training; otherwise every block uses the same room again.
        kept = (sizes.chunks if training else len(blocks[0])) + 1
        starts = [s.new_empty(kept * sizes.groups, *s.shape[1:]) for s in (state_1, state_2)]
        starts[0][sizes.rows(0)], starts[1][sizes.rows(0)] = state_1, state_2
        factors, outputs = [], []
        for block in blocks:
            first = block.start if training else 0
            at = [s[sizes.rows(first, first + len(block) + 1)] for s in starts]
            error, h, left = _write_block(
                spec, sizes, bound, token_rows, block, at, inputs, factors
            )
            rows, last = sizes.rows(block.start, block.stop), sizes.rows(len(block))
            seen_by, step = gates[2][rows], gates[3][rows]
            if bound is not None:
                of_block = torch.cat(factors[block.start :])
                seen_by, step = _shrunk_read(seen_by, step, of_block, token_rows)
            begun_1, begun_2 = (s[: last.start] for s in at)
            z, *_ = _read(begun_2, phi_q[rows], phi[rows], left, seen_by, step)
            outputs.append(_read(begun_1, gelu(z), h, error, seen_by, step)[0])
            if not training and block.stop < sizes.chunks:
                starts[0][sizes.rows(0)], starts[1][sizes.rows(0)] = at[0][last], at[1][last]
        ctx.spec, ctx.sizes, ctx.bounded = spec, sizes, bound is not None
        more = (torch.cat(factors), token_rows) if factors else ()
        if training:
            ctx.save_for_backward(*starts, *inputs, *more)
        return at[0][last].clone(), at[1][last].clone(), torch.cat(outputs)

    @staticmethod
    def backward(ctx, grad_1: Tensor, grad_2: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        starts_1, starts_2, *inputs = ctx.saved_tensors
        inputs, factors = inputs[:7], inputs[7:]
        sizes = ctx.sizes
        block_grads = []
        blocks = sizes.blocks(grad_1, grad_2)
        # All blocks share one buffer: fresh memory costs more than the product that fills it.
        room = [g.new_empty(len(blocks[0]) * sizes.groups, *g.shape[1:]) for g in (grad_1, grad_2)]
        grad_1, grad_2 = (g.clone(memory_format=torch.contiguous_format) for g in (grad_1, grad_2))
        for block in reversed(blocks):
            rows = sizes.rows(block.start, block.stop)
            part = [tensor[rows] for tensor in inputs]
            if ctx.bounded:
                part[3:] = _shrunk(part[3:], factors[0][rows], factors[1])
            to_1, to_2 = (r[: rows.stop - rows.start] for r in room)
            grads = _block_backward(
                ctx.spec, sizes, starts_1[rows], starts_2[rows], part, grad_y[rows],
                grad_1, grad_2, to_1, to_2,
            )  # fmt: skip
            block_grads.append(grads)
            grad_1.copy_(to_1[sizes.rows(0)])
            grad_2.copy_(to_2[sizes.rows(0)])
        grads = [torch.cat(parts) for parts in zip(*reversed(block_grads), strict=True)]
        if ctx.bounded:  # the factor is a constant
            grads[3:] = _shrunk(grads[3:], *factors)
        return None, None, None, grad_1, grad_2, *grads


def _write_block(
    spec: MemorySpec,
    sizes: _Sizes,
    bound: Bound | None,
    token_rows: Tensor,
    block: range,
    starts: list[Tensor],
    inputs: tuple[Tensor, ...],
    factors: list[Tensor],
) -> tuple[Tensor, ...]:
    """Fill in the states after the block's first; returns E, H and L of its chunks.

    The bounded step's factor of every chunk is appended to ``factors``.
    """
    _, phi, target, *gates = inputs
    written = []
    for i, n in enumerate(block):
        here, (old_1, old_2) = sizes.rows(n), (s[sizes.rows(i)] for s in starts)
        w = _write(spec, *sizes.written(old_1, old_2), phi[here], target[here])
        written.append((w.error, w.h, w.left))
        mix, scale = gates[0][here], gates[1][here]
        if bound is not None:
            weights = {"W1": (w.error, w.h), "W2": (w.left, phi[here])}
            overlap = step_overlap(spec, phi[here], weights, w.error)
            seen = bound.seen[n if len(bound.seen) > 1 else 0]
            factors.append(shrink_factor(spec, bound.applied[n], overlap, seen))
            mix, scale = _shrunk_carry(mix, scale, factors[-1])
        for start, old, left, right in (
            (starts[0], old_1, w.error, w.h),
            (starts[1], old_2, w.left, phi[here]),
        ):
            new = start[sizes.rows(i + 1)]
            torch.bmm(mix, sizes.by_part(old), out=sizes.by_part(new))
            new.baddbmm_(_spread(left, scale).mT, right)
    return tuple(torch.cat(parts) for parts in zip(*written, strict=True))


def _block_backward(
    spec: MemorySpec,
    sizes: _Sizes,
    starts_1: Tensor,
    starts_2: Tensor,
    inputs: list[Tensor],
    grad_y: Tensor,
    grad_1: Tensor,
    grad_2: Tensor,
    to_1: Tensor,
    to_2: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of ``inputs`` from those of the block's reads and of the states after it.

    The gradients of the states at its chunks' starts are put in ``to_1`` and ``to_2``.
    """
    phi_q, phi, target, mix, scale, seen_by, step = inputs
    w1, w2 = sizes.written(starts_1, starts_2)
    w = _write(spec, w1, w2, phi, target)
    z, *products_2 = _read(starts_2, phi_q, phi, w.left, seen_by, step)
    q = gelu(z)
    _, *products_1 = _read(starts_1, q, w.h, w.error, seen_by, step)
    # Through the reads, y and then Z, for all chunks at once.
    to_q, to_h, to_error, to_seen, to_step = _read_backward(
        grad_y, starts_1, q, w.h, w.error, seen_by, step, *products_1, to_1
    )
    to_z = torch.ops.aten.gelu_backward(to_q, z)
    to_phi_q, to_phi, to_left, more_seen, more_step = _read_backward(
        to_z, starts_2, phi_q, phi, w.left, seen_by, step, *products_2, to_2
    )
    spread_error, spread_left = _spread(w.error, scale), _spread(w.left, scale)
    bend = gelu_bend(w.a).mul_(w.back)
    wide_1, wide_2 = torch.empty_like(spread_error), torch.empty_like(spread_left)
    to_mix = torch.empty_like(mix)
    to_parts = lambda x: x.unflatten(2, (sizes.parts, -1))  # noqa: E731
    # Through the updates and the writes, chunk by chunk from the last. The gradient of a state is
    # added to the gradient that its reads sent there.
    for i in reversed(range(starts_1.shape[0] // sizes.groups)):
        here = sizes.rows(i)
        h, phi_here, slope, scale_here = w.h[here], phi[here], w.slope[here], scale[here]
        torch.bmm(h, grad_1.mT, out=wide_1[here])
        torch.bmm(phi_here, grad_2.mT, out=wide_2[here])
        error_here = to_error[here].add_((to_parts(wide_1[here]) * scale_here[..., None]).sum(2))
        left_here = to_left[here].add_((to_parts(wide_2[here]) * scale_here[..., None]).sum(2))
        h_here = to_h[here].baddbmm_(spread_error[here], grad_1)
        to_phi[here].baddbmm_(spread_left[here], grad_2)
        torch.bmm(sizes.by_part(grad_1), sizes.by_part(starts_1[here]).mT, out=to_mix[here])
        to_mix[here].baddbmm_(sizes.by_part(grad_2), sizes.by_part(starts_2[here]).mT)
        before_1, before_2 = to_1[here], to_2[here]
        sizes.by_part(before_1).baddbmm_(mix[here].mT, sizes.by_part(grad_1))
        sizes.by_part(before_2).baddbmm_(mix[here].mT, sizes.by_part(grad_2))
        # L = (E W1) gelu'(A), E = H W1' - target, H = gelu(A) and A = phi_k W2'.
        to_w1, to_w2 = sizes.written(before_1, before_2)
        to_back = left_here * slope
        error_here.baddbmm_(to_back, w1[here].mT)
        to_w1.baddbmm_(w.error[here].mT, to_back)
        if spec.objective == "l2":
            h_here.baddbmm_(error_here, w1[here])
            to_w1.baddbmm_(error_here.mT, h)
        to_a = h_here.mul_(slope).addcmul_(left_here, bend[here])
        to_w2.baddbmm_(to_a.mT, phi_here)
        to_phi[here].baddbmm_(to_a, w2[here])
        grad_1, grad_2 = before_1, before_2
    to_scale = (to_parts(wide_1) * w.error[:, :, None]).sum(-1)
    to_scale += (to_parts(wide_2) * w.left[:, :, None]).sum(-1)
    grads = (to_phi_q, to_phi, to_error.neg_(), to_mix, to_scale)
    return *grads, to_seen + more_seen, to_step + more_step
