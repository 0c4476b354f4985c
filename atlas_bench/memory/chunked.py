"""The chunk-parallel form: the same function as reference.py, at the speed of matrix products.

Inside a chunk gradients are frozen at W_t', so W and S at every update point p are known sums

    W_p = A_p W - B_p S - sum_j C_pj u_j          S_p = Theta_p S + sum_j sigma_pj u_j

of the weights at the chunk's start and the tokens' gradients, which are outer products
u_j = left_j right_j. For `gd` and `momentum` only the recurrence over chunks is sequential
(`scan.py`); everything that is read is computed for all chunks at once. `muon` forms S_p for the
update points of one chunk, orthogonalises them as one batch and reads inside the same step.

Legend: N chunks, G batch x heads, U update points of a chunk, P = U + 1, J tokens it learns from
(the window before it and its own), X its own tokens, D features, K key, V value, O and I the
rows and columns of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atlas_bench.memory.coefficients import Coefficients, coefficients
from atlas_bench.memory.features import apply_features
from atlas_bench.memory.networks import Factors, forward, gradient_factors
from atlas_bench.memory.newton_schulz import orthogonalise, orthogonalise_backward
from atlas_bench.memory.scan import scan
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState
from atlas_bench.memory.state import checked_inputs, initial_state

Weights = dict[str, Tensor]


def chunked(
    spec: MemorySpec,
    params: MemoryParameters,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    state: MemoryState | None = None,
) -> tuple[Tensor, MemoryState]:
    """The same function as `reference`, with the same arguments and result.

    q, k: (B, T, H, d_k); v: (B, T, H, d_v). Training keeps one state a chunk and recomputes the
    rest of the recurrence in the backward pass. Any T and any split into calls; a call with
    T = 1 is a decoding step.
    """
    with torch.autocast(q.device.type, enabled=False):
        inputs = checked_inputs(spec, params, q, k, v, gates)
        state = initial_state(spec, params, inputs) if state is None else state
        length, done, outputs = q.shape[1], 0, []
        while done < length:
            place = state.position % spec.chunk
            whole = (length - done) // spec.chunk
            if place or not whole:
                chunks, size = 1, min(spec.chunk - place, length - done)
            else:
                chunks, size = whole, spec.chunk
            part = {n: x[:, :, done : done + chunks * size] for n, x in inputs.items()}
            y, state = _segment(spec, params, part, state, chunks, size)
            outputs.append(y)
            done += chunks * size
        y = torch.cat(outputs, 2) if outputs else inputs["v"]
        return y.transpose(1, 2), state


@dataclass(frozen=True)
class _Segment:
    """A run of whole chunks, or a part of one chunk (N = 1), and what it starts from."""

    q_NGXK: Tensor
    phi_q_NGXD: Tensor
    k_NGJK: Tensor
    phi_k_NGJD: Tensor
    v_NGJV: Tensor
    rows: Coefficients
    weights: Weights
    momentum: Weights
    reference: Weights
    place: int

    @property
    def values(self) -> int:
        return self.v_NGJV.shape[-1]


def _segment(
    spec: MemorySpec,
    params: MemoryParameters,
    part: dict[str, Tensor],
    state: MemoryState,
    chunks: int,
    size: int,
) -> tuple[Tensor, MemoryState]:
    """Read and write ``chunks`` runs of ``size`` tokens, none of which crosses a chunk's end."""
    batch, heads, length, _ = part["q"].shape
    known = {name: torch.cat([past, part[name]], 2) for name, past in state.recent.items()}
    before = state.recent["k"].shape[2]
    # A sequence's first chunks have no full window behind them: pad, with weight 0.
    behind = before if state.position % spec.chunk else spec.window - 1
    pad = behind - before

    def windows(x: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(x, (0, 0) * (x.dim() - 3) + (pad, 0)) if pad else x
        return _windows(padded, chunks, size, behind)

    def features(x_NGTK: Tensor) -> Tensor:
        x_LHTK = x_NGTK.unflatten(1, (batch, heads)).flatten(0, 1)
        phi = apply_features(spec, params, x_LHTK.transpose(1, 2)).transpose(1, 2)
        return phi.reshape(*x_NGTK.shape[:-1], -1)

    def grouped(weights: Weights) -> Weights:
        return {name: w.flatten(0, 1) for name, w in weights.items()}

    tokens = {name: windows(x) for name, x in known.items()}
    q_NGXK, phi_k_NGJD = _windows(part["q"], chunks, size, 0), features(tokens["k"])
    segment = _Segment(
        q_NGXK=q_NGXK,
        phi_q_NGXD=features(q_NGXK),
        k_NGJK=tokens["k"],
        phi_k_NGJD=phi_k_NGJD,
        v_NGJV=tokens["v"],
        rows=coefficients(spec, tokens, phi_k_NGJD, state, size, pad),
        weights=grouped(state.weights),
        momentum=grouped(state.momentum),
        reference=grouped(state.reference),
        place=state.position % spec.chunk,
    )
    run = _run_muon if spec.optimizer == "muon" else _run_linear
    y_NGXV, weights, momentum = run(spec, segment)
    y = y_NGXV.transpose(0, 1).reshape(batch, heads, length, -1)
    new = _next_state(spec, state, known, segment.rows, length)
    unflatten = lambda group: {n: w.unflatten(0, (batch, heads)) for n, w in group.items()}  # noqa: E731
    weights = unflatten(weights)
    return y, MemoryState(
        weights=weights,
        momentum=unflatten(momentum),
        reference=weights if new["position"] % spec.chunk == 0 else state.reference,
        **new,
    )


def _windows(x_BHT: Tensor, chunks: int, size: int, behind: int) -> Tensor:
    """(B, H, behind + N X, ...) -> (N, G, behind + X, ...): each chunk with what stands before."""
    x_GT = x_BHT.flatten(0, 1)
    if chunks == 1:
        return x_GT[None]
    if behind == 0:
        return x_GT.unflatten(1, (chunks, size)).transpose(0, 1).contiguous()
    return x_GT.unfold(1, behind + size, size).movedim(-1, 2).transpose(0, 1).contiguous()


def _next_state(
    spec: MemorySpec,
    state: MemoryState,
    known: dict[str, Tensor],
    rows: Coefficients,
    length: int,
) -> dict:
    """All fields of the state after the segment but its weights."""
    position = state.position + length
    place = position % spec.chunk
    keep = min(known["k"].shape[2], spec.window - 1 + (place if spec.is_bounded else 0))
    recent = {name: x[:, :, x.shape[2] - keep :] for name, x in known.items()}
    fields = {"position": position, "recent": recent}
    if not spec.is_bounded:
        return fields
    shape = recent["k"].shape[:2]
    if place == 0:
        zeros = state.retained.new_zeros(*shape, keep)
        return fields | {
            "applied": zeros,
            "applied_momentum": zeros,
            "retained": torch.ones_like(state.retained),
        }
    last = slice(rows.applied.shape[-1] - keep, None)
    return fields | {
        "applied": rows.applied[-1, :, last].unflatten(0, shape),
        "applied_momentum": rows.applied_momentum[-1, :, last].unflatten(0, shape),
        "retained": rows.retained[-1].unflatten(0, shape),
    }


def _times(gate: Tensor, weight: Tensor) -> Tensor:
    return gate[..., None, None].to(weight.dtype) * weight


def _outer_sum(left: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    """sum_j scale_j left_j right_j: (G, J, O), (G, J), (G, J, I) -> (G, O, I)."""
    return (left * scale[..., None]).mT @ right


def _named(spec: MemorySpec, tensors: tuple[Tensor, ...]) -> tuple[Weights, Weights]:
    """(W..., S...) as two dicts; S is empty without momentum."""
    names = spec.weight_names
    weights = dict(zip(names, tensors, strict=False))
    return weights, dict(zip(names, tensors[len(names) :], strict=False))


# gd and momentum ---------------------------------------------------------------------------


def _run_linear(spec: MemorySpec, x: _Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V), and W and S after the segment."""
    rows, keep_momentum = x.rows, x.rows.momentum_keep[..., -1]
    sigma = x.rows.momentum_step[..., -1, :]
    start = (*x.weights.values(), *x.momentum.values())
    if x.v_NGJV.shape[0] > 1:  # whole chunks: W_ref = W at the start of each
        last, starts, _ = scan(
            lambda state, inputs: (_advance(spec, state, inputs), ()),
            start,
            (
                x.k_NGJK,
                x.phi_k_NGJD,
                x.v_NGJV,
                rows.carry.keep,
                keep_momentum if rows.carry.momentum is None else rows.carry.momentum,
                rows.carry.step,
                keep_momentum,
                sigma,
            ),
            starts=True,
        )
        weights, momentum = _named(spec, starts)
        reference = weights
        factors = gradient_factors(spec, reference, x.phi_k_NGJD, x.k_NGJK, x.v_NGJV)
    else:
        weights, momentum = _named(spec, tuple(w[None] for w in start))
        reference = {name: w[None] for name, w in x.reference.items()}
        factors = gradient_factors(spec, reference, x.phi_k_NGJD, x.k_NGJK, x.v_NGJV)
        carry = rows.carry
        combined = _combine(
            weights, momentum, factors, carry.keep, carry.momentum, carry.step, keep_momentum, sigma
        )
        last = tuple(tensor[0] for tensor in combined)
        if carry.reference is not None:
            added = (_times(carry.reference, reference[n])[0] for n in spec.weight_names)
            kept = [w + more for w, more in zip(last, added, strict=False)]
            last = (*kept, *last[len(kept) :])
    read = rows.read.at(rows.token_rows)

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
    return (y, *_named(spec, last))


def _advance(spec: MemorySpec, state: tuple, inputs: tuple) -> tuple[Tensor, ...]:
    """One whole chunk of the recurrence: (W..., S...) at its start -> at its end."""
    k, phi, v, keep, used, step, keep_momentum, sigma = inputs
    weights, momentum = _named(spec, state)
    factors = gradient_factors(spec, weights, phi, k, v)
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
        new = _times(keep, weight) - _outer_sum(left, step, right)
        if momentum:
            new = new - _times(used, momentum[name])
            gradient = _outer_sum(left, sigma, right)
            new_momentum.append(_times(keep_momentum, momentum[name]) + gradient)
        new_weights.append(new)
    return (*new_weights, *new_momentum)


# muon --------------------------------------------------------------------------------------


def _run_muon(spec: MemorySpec, x: _Segment) -> tuple[Tensor, Weights, Weights]:
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
            muon(tuple(t[index] for t in state), tuple(t[index] for t in inputs), busy=index is busy)
            for index in (busy, idle)
        ]
        return tuple(
            tuple(torch.cat(pair)[place] for pair in zip(*group, strict=True))
            for group in zip(*parts, strict=True)
        )

    def muon(state: tuple, inputs: tuple, busy: bool) -> tuple[tuple, tuple]:
        weights, momentum = _named(spec, state[: 2 * count])
        reference = dict(zip(names, state[2 * count :], strict=False)) or weights
        chunk = _muon_chunk if busy else _idle_chunk
        y, weights, momentum = chunk(
            spec, weights, momentum, reference, inputs, rows, x.place
        )
        return (*weights.values(), *momentum.values(), *state[2 * count :]), (y,)

    start = (*x.weights.values(), *x.momentum.values())
    start += () if x.place == 0 else tuple(x.reference.values())
    last, _, (y,) = scan(step, start, inputs, starts=False)
    return (y, *_named(spec, last[: 2 * count]))


def _muon_chunk(
    spec: MemorySpec,
    weights: Weights,
    momentum: Weights,
    reference: Weights,
    inputs: tuple[Tensor, ...],
    rows: Coefficients,
    place: int,
) -> tuple[Tensor, Weights, Weights]:
    """One segment: S at its update points, orthogonalised as one batch; reads at every version."""
    q, phi_q, k, phi_k, v, keep, blend, keep_momentum, momentum_blend, window_weight, *_ = inputs
    factors = gradient_factors(spec, reference, phi_k, k, v)
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
            left * window_weight[..., None],
            right,
            keep.to(weight.dtype),
            blend.to(weight.dtype),
            keep_momentum[:, 1:].to(weight.dtype),
            momentum_blend.to(weight.dtype),
            (spec.newton_schulz_steps, spec.newton_schulz_coefficients, v.dtype),
        )
    y = _read_versions(spec, versions, phi_q, q, v.shape[-1], place)
    return y, new_weights, new_momentum


class _MuonUpdates(torch.autograd.Function):
    """W at every version, and the last W and S, from the window's gradients: one weight's updates.

    W, S (G, O, I); left (G, U, c, O), right (G, U, c, I): the gradients' factors by update;
    keep (G, P), blend (G, P, U), keep_momentum (G, U), momentum_blend (G, U, U): Coefficients.
    By hand, because autograd walks through every (G, U, O, I) three times as often.
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
    reference: Weights,
    inputs: tuple[Tensor, ...],
    rows: Coefficients,
    place: int,
) -> tuple[Tensor, Weights, Weights]:
    """One segment whose rates are all 0: W only decays, and nothing needs orthogonalising."""
    q, phi_q, k, phi_k, v, keep, _, keep_momentum, _, _, sigma, _ = inputs
    factors = gradient_factors(spec, reference, phi_k, k, v)
    keep_token = keep.index_select(-1, rows.token_rows)[..., None]

    def linear(name: str, query: Tensor) -> Tensor:
        return keep_token * (query @ weights[name].to(query.dtype).mT)

    y = forward(spec, linear, phi_q, q, v.shape[-1])
    new_weights = {name: _times(keep[:, -1], w) for name, w in weights.items()}
    new_momentum = {
        name: _times(keep_momentum[:, -1], s) + _outer_sum(factors[name][0], sigma, factors[name][1])
        for name, s in momentum.items()
    }
    return y, new_weights, new_momentum


def _read_versions(
    spec: MemorySpec,
    versions: Weights,
    phi_q_GXD: Tensor,
    q_GXK: Tensor,
    values: int,
    place: int,
) -> Tensor:
    """Every token reads the latest version: versions (G, P, O, I) -> (G, X, V).

    Each version is read by the ``update_every`` tokens from its update to the next one, so after
    padding the first group the tokens divide evenly among the versions.
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

    y = forward(spec, linear, group(phi_q_GXD), group(q_GXK), values)
    return y.flatten(1, 2)[:, front : front + tokens]
