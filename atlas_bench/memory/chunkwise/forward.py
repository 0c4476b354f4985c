"""The chunk-parallel form: the same function as `recurrent_memory`, made of matrix products.

All gradients of a chunk are taken at W_t', so W and S at every update point p are known sums

    W_p = A_p W - B_p S - sum_j C_pj u_j          S_p = Theta_p S + sum_j sigma_pj u_j

of the state at the chunk's start and the tokens' gradients, which are outer products
u_j = left_j right_j. Each way of adding them up has its own file:

    linear.py     `gd` and `momentum`
    mlp.py        the same by hand, for whole chunks of two-layer memories
    channel.py    one keep-rate per feature
    delta.py      the exact delta rule, whose chunks are single tokens, in blocks of tokens
    muon.py       `muon`
    mapped.py     weights that are read through an `lq` or `kl` retention
    ../fla.py     on a GPU: the kernels of flash-linear-attention, for what they cover

Legend: B batch, T tokens, H heads, N chunks, G = B x H, J tokens that a chunk learns from (the
window before it and its own), X its own tokens, K key size, D features, V value size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atlas_bench.memory import fla
from atlas_bench.memory.chunkwise import delta, mlp
from atlas_bench.memory.chunkwise.bound import Bound, bound_of
from atlas_bench.memory.chunkwise.channel import run_channel
from atlas_bench.memory.chunkwise.coefficients import coefficients
from atlas_bench.memory.chunkwise.linear import run_linear
from atlas_bench.memory.chunkwise.mapped import run_mapped
from atlas_bench.memory.chunkwise.muon import run_muon
from atlas_bench.memory.chunkwise.segment import Segment, Weights
from atlas_bench.memory.features import apply_features
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState
from atlas_bench.memory.state import checked_inputs, initial_state, with_bias, without_autocast


def chunk_memory(
    spec: MemorySpec,
    params: MemoryParameters,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    state: MemoryState | None = None,
    *,
    predict: bool = False,
) -> tuple[Tensor, MemoryState]:
    """The same function as `recurrent_memory`, with the same arguments and results.

    q, k: (B, T, H, K); v: (B, T, H, V). Any T and any split into calls give the same result; a call
    with T = 1 is a decoding step. Training keeps one state per chunk and, except where that is
    small, recomputes the rest of the recurrence in the backward pass.

    ``predict``, for the exact delta rule: y is (B, T, H, 2 V), behind what is read what the memory
    gave for the token's key before it learnt the token, W_(t-1) phi(k_t).
    """
    with without_autocast(q):
        inputs = checked_inputs(spec, params, q, k, v, gates)
        state = initial_state(spec, params, inputs) if state is None else state
        if not predict and fla.applies(spec, params, inputs["v"]):
            return fla.run(spec, params, inputs, state)
        length, done, outputs = q.shape[1], 0, []
        run = delta.BLOCK if spec.is_delta_rule else spec.chunk
        while done < length:
            place = 0 if spec.is_delta_rule else state.position % run
            whole = (length - done) // run
            if place or not whole:
                chunks, size = 1, min(run - place, length - done)
            else:
                chunks, size = whole, run
            part = {n: x[:, :, done : done + chunks * size] for n, x in inputs.items()}
            y, state = _segment(spec, params, part, state, chunks, size, predict)
            outputs.append(y)
            done += chunks * size
        y = torch.cat(outputs, 2) if outputs else inputs["v"].repeat(1, 1, 1, 1 + predict)
        return with_bias(params, y.transpose(1, 2)), state


def _segment(
    spec: MemorySpec,
    params: MemoryParameters,
    part: dict[str, Tensor],
    state: MemoryState,
    chunks: int,
    size: int,
    predict: bool,
) -> tuple[Tensor, MemoryState]:
    """Read and write ``chunks`` runs of ``size`` tokens; none of them crosses a chunk's end."""
    batch, heads, length, _ = part["q"].shape
    known = {name: torch.cat([past, part[name]], 2) for name, past in state.recent.items()}
    before = state.recent["k"].shape[2]
    # The first update of a whole chunk needs its window's tokens before the chunk; the bounded step
    # needs all remembered tokens. The first chunks of a sequence have fewer: pad with weight 0.
    needed = before
    if state.position % spec.chunk == 0:
        needed = spec.window - (1 if spec.is_bounded else spec.update_every)
    pad = max(0, needed - before)

    def windows(x: Tensor) -> Tensor:
        x = x[:, :, max(0, before - needed) :]
        padded = torch.nn.functional.pad(x, (0, 0) * (x.dim() - 3) + (pad, 0)) if pad else x
        return _windows(padded, chunks, size, needed)

    def features(x_NGTK: Tensor) -> Tensor:
        x_LHTK = x_NGTK.unflatten(1, (batch, heads)).flatten(0, 1)
        phi = apply_features(spec, params, x_LHTK.transpose(1, 2)).transpose(1, 2)
        return phi.reshape(*x_NGTK.shape[:-1], -1)

    def grouped(weights: Weights) -> Weights:
        return {name: w.flatten(0, 1) for name, w in weights.items()}

    tokens = {name: windows(x) for name, x in known.items()}
    q_NGXK, phi_k_NGJD = _windows(part["q"], chunks, size, 0), features(tokens["k"])
    rows = None if spec.is_delta_rule else coefficients(spec, tokens, state, size, pad)
    bound = bound_of(spec, rows, state, size) if rows and spec.is_bounded else None
    gain = params.norm_gain
    if gain is not None:
        gain = gain.repeat(batch, 1, 1).expand(chunks, -1, -1, -1)
    segment = Segment(
        q_NGXK=q_NGXK,
        phi_q_NGXD=features(q_NGXK),
        k_NGJK=tokens["k"],
        phi_k_NGJD=phi_k_NGJD,
        v_NGJV=tokens["v"],
        tokens=tokens,
        rows=rows,
        bound=bound,
        weights=grouped(state.weights),
        momentum=grouped(state.momentum),
        chunk_start_weights=grouped(state.chunk_start_weights),
        place=state.position % spec.chunk,
        gain_NG1V=gain,
        predict=predict,
    )
    y_NGXV, weights, momentum = _form(spec, segment)(spec, segment)
    y = y_NGXV.transpose(0, 1).reshape(batch, heads, length, -1)
    new = _next_state(spec, state, known, bound, length)
    unflatten = lambda group: {n: w.unflatten(0, (batch, heads)) for n, w in group.items()}  # noqa: E731
    weights = unflatten(weights)
    ended = new["position"] % spec.chunk == 0
    return y, MemoryState(
        weights=weights,
        momentum=unflatten(momentum),
        chunk_start_weights=weights if ended else state.chunk_start_weights,
        **new,
    )


def _form(spec: MemorySpec, x: Segment) -> Callable:
    """The function that computes this segment."""
    if spec.is_delta_rule:
        return delta.run_delta
    if spec.retention != "l2":
        return run_mapped
    if spec.retain == "channel":
        return run_channel
    if spec.optimizer == "muon":
        return run_muon
    whole = x.v_NGJV.shape[0] > 1
    return mlp.run_mlp if whole and mlp.applies(spec, x) else run_linear


def _windows(x_BHT: Tensor, chunks: int, size: int, before: int) -> Tensor:
    """(B, H, before + N X, ...) -> (N, G, before + X, ...): chunks with the tokens before them."""
    x_GT = x_BHT.flatten(0, 1)
    if chunks == 1:
        return x_GT[None]
    if before == 0:
        return x_GT.unflatten(1, (chunks, size)).transpose(0, 1).contiguous()
    return x_GT.unfold(1, before + size, size).movedim(-1, 2).transpose(0, 1).contiguous()


def _next_state(
    spec: MemorySpec,
    state: MemoryState,
    known: dict[str, Tensor],
    bound: Bound | None,
    length: int,
) -> dict:
    """All fields of the state after the segment except its weights."""
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
    last = slice(bound.applied.shape[-1] - keep, None)
    return fields | {
        "applied": bound.applied[-1, :, -1, last].unflatten(0, shape),
        "applied_momentum": bound.applied_momentum[-1, :, -1, last].unflatten(0, shape),
        "retained": bound.retained[-1, :, -1].unflatten(0, shape),
    }
