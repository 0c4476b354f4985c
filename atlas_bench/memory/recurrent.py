"""The recurrence, token by token, in its plainest form: the definition that all other forms equal.

It is slow.

Legend: B batch, T tokens, H heads, K key size, V value size, D features, J tokens of the window, R
remembered tokens, O and I the rows and columns of a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.bounded import step_overlap
from atlas_bench.memory.features import apply_features
from atlas_bench.memory.networks import Factors, forward, gradient_factors
from atlas_bench.memory.newton_schulz import newton_schulz
from atlas_bench.memory.retention import read_weights
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState
from atlas_bench.memory.state import checked_inputs, initial_state, with_bias


def recurrent_memory(
    spec: MemorySpec,
    params: MemoryParameters,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    state: MemoryState | None = None,
) -> tuple[Tensor, MemoryState]:
    """Read and update the memory one token at a time.

    q, k: (B, T, H, K); v: (B, T, H, V); gates: see Gates. Returns y (B, T, H, V) and the state
    after the last token, from which the next call continues. ``state=None`` starts a new sequence.
    Source: ATLAS Eq 15-16, 32-33; Titans Eq 13-14 with ``rate_inside``; TTT Eq 4-6; Miras Eq 24-27.
    """
    inputs = checked_inputs(spec, params, q, k, v, gates)
    state = initial_state(spec, params, inputs) if state is None else state
    outputs = []
    for t in range(q.shape[1]):
        token = {name: tensor[:, :, t : t + 1] for name, tensor in inputs.items() if name != "q"}
        state = _write(spec, params, token, state)
        weights, shrink = _bounded_weights(spec, params, state)
        query = inputs["q"][:, :, t : t + 1]
        read = read_weights(spec, weights)

        def linear(name: str, x: Tensor, read: dict[str, Tensor] = read) -> Tensor:
            return x @ read[name].to(x.dtype).mT

        features = _features(spec, params, query)
        outputs.append(forward(spec, linear, features, query, v.shape[-1], gain=params.norm_gain))
        if state.position % spec.chunk == 0:
            state = _close_chunk(spec, state, weights, shrink)
    y = torch.cat(outputs, 2) if outputs else inputs["v"]
    return with_bias(params, y.transpose(1, 2)), state


def _features(spec: MemorySpec, params: MemoryParameters, x_BHTK: Tensor) -> Tensor:
    return apply_features(spec, params, x_BHTK.transpose(1, 2)).transpose(1, 2)


def _write(
    spec: MemorySpec, params: MemoryParameters, token: dict[str, Tensor], state: MemoryState
) -> MemoryState:
    """Remember one token, and update W and S if an update is due."""
    position = state.position + 1
    recent = {name: torch.cat([state.recent[name], token[name]], 2) for name in token}
    kept = recent["k"].shape[2]
    weights, momentum = state.weights, state.momentum
    applied, applied_momentum, retained = state.applied, state.applied_momentum, state.retained
    if spec.is_bounded:
        pad = torch.zeros_like(retained)[..., None]
        applied = torch.cat([applied, pad], 2)
        applied_momentum = torch.cat([applied_momentum, pad], 2)
    if position % spec.update_every == 0:
        since = recent["retain"][:, :, -spec.update_every :]
        alpha = since.prod(2)
        theta = recent["momentum"][:, :, -spec.update_every :].prod(2)
        eta = recent["rate"][:, :, -spec.update_every :].mean(2)
        gamma = _window_weights(spec, recent)
        gradient = _window_gradient(spec, params, state.chunk_start_weights, recent, gamma)
        if spec.has_momentum:
            momentum = {n: _scale(theta, momentum[n]) + gradient[n] for n in gradient}
        step = momentum if spec.has_momentum else gradient
        if spec.optimizer == "muon":
            how = (spec.newton_schulz_steps, spec.newton_schulz_coefficients, token["v"].dtype)
            step = {n: newton_schulz(s, *how) for n, s in step.items()}
        decay = _scale if alpha.dim() == 2 else _scale_inputs
        weights = {n: decay(alpha, weights[n]) - _scale(eta, step[n]) for n in weights}
        if spec.is_bounded:
            padded = torch.zeros_like(applied)
            padded[:, :, kept - gamma.shape[2] :] = gamma
            applied_momentum = (
                theta[..., None] * applied_momentum + padded if spec.has_momentum else padded
            )
            applied = alpha[..., None] * applied + eta[..., None] * applied_momentum
            retained = alpha * retained
    keep = spec.window - 1
    if spec.is_bounded:
        keep += position % spec.chunk or spec.chunk
    return MemoryState(
        weights=weights,
        momentum=momentum,
        chunk_start_weights=state.chunk_start_weights,
        position=position,
        recent={name: tensor[:, :, max(0, kept - keep) :] for name, tensor in recent.items()},
        applied=None if applied is None else applied[:, :, max(0, kept - keep) :],
        applied_momentum=(
            None if applied_momentum is None else applied_momentum[:, :, max(0, kept - keep) :]
        ),
        retained=retained,
    )


def _scale(gate_BH: Tensor, weight_BHOI: Tensor) -> Tensor:
    return gate_BH.to(weight_BHOI.dtype)[..., None, None] * weight_BHOI


def _scale_inputs(gate_BHI: Tensor, weight_BHOI: Tensor) -> Tensor:
    return gate_BHI.to(weight_BHOI.dtype)[..., None, :] * weight_BHOI


def _window_weights(spec: MemorySpec, recent: dict[str, Tensor]) -> Tensor:
    """gamma of the tokens of the window that ends now, oldest first: (B, H, J)."""
    weight = recent["weight"]
    if spec.window_weights == "token":
        return weight[:, :, -spec.window :]
    tokens = min(spec.window, weight.shape[2])
    return weight[:, :, -1, :tokens].flip(-1)


def _window_gradient(
    spec: MemorySpec,
    params: MemoryParameters,
    weights: dict[str, Tensor],
    recent: dict[str, Tensor],
    gamma_BHJ: Tensor,
) -> dict[str, Tensor]:
    """G_t: the sum of the window's gradients at ``weights``, each formed in full."""
    tokens = gamma_BHJ.shape[2]
    window = {name: tensor[:, :, -tokens:] for name, tensor in recent.items()}
    factors, _ = _factors(spec, params, weights, window)
    total = {}
    for name, (left, right) in factors.items():
        outer_BHJOI = left[..., :, None] * right[..., None, :]
        summed = (gamma_BHJ[..., None, None] * outer_BHJOI).sum(2)
        total[name] = summed.to(weights[name].dtype)
    return total


def _factors(
    spec: MemorySpec,
    params: MemoryParameters,
    weights: dict[str, Tensor],
    tokens: dict[str, Tensor],
) -> tuple[Factors, Tensor]:
    """`gradient_factors` of some tokens at ``weights``, which are read through the retention."""
    k, v, threshold = tokens["k"], tokens["v"], tokens.get("threshold")
    phi, read = _features(spec, params, k), read_weights(spec, weights)
    return gradient_factors(spec, read, phi, k, v, gain=params.norm_gain, threshold=threshold)


def _bounded_weights(
    spec: MemorySpec, params: MemoryParameters, state: MemoryState
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The weights that are read, with the chunk's step divided by max(1, rho), and 1 / max(1, rho).

    rho = max_i sum_j |C_j| overlap_ij over the tokens up to the last update. Later tokens have not
    been learnt yet and must not change what is read.
    """
    if not spec.is_bounded:
        return state.weights, None
    tokens = state.recent["k"].shape[2] - state.position % spec.update_every
    known = {name: tensor[:, :, :tokens] for name, tensor in state.recent.items()}
    factors, error = _factors(spec, params, state.chunk_start_weights, known)
    overlap = step_overlap(spec, _features(spec, params, known["k"]), factors, error)
    applied = state.applied[:, :, :tokens, None].abs().to(overlap.dtype)
    rho = (overlap @ applied).squeeze(-1)
    shrink = 1 / rho.amax(-1).clamp_min(1) if tokens else torch.ones_like(state.retained)
    if spec.bounded_by == "network":
        shrink = shrink.detach()
    bounded = {}
    for name, weight in state.weights.items():
        kept = _scale(state.retained, state.chunk_start_weights[name])
        bounded[name] = kept + _scale(shrink, weight - kept)
    return bounded, shrink


def _close_chunk(
    spec: MemorySpec, state: MemoryState, weights: dict[str, Tensor], shrink: Tensor | None
) -> MemoryState:
    """End a chunk: the weights read last become those at which gradients are taken."""
    momentum = state.momentum
    if shrink is not None and spec.bounded_by == "network":
        momentum = {name: _scale(shrink, s) for name, s in momentum.items()}
    keep = max(0, state.recent["k"].shape[2] - (spec.window - 1))
    recent = {name: tensor[:, :, keep:] for name, tensor in state.recent.items()}
    zeros = torch.zeros_like(recent["retain"]) if spec.is_bounded else None
    return MemoryState(
        weights=weights,
        momentum=momentum,
        chunk_start_weights=weights,
        position=state.position,
        recent=recent,
        applied=zeros,
        applied_momentum=zeros,
        retained=None if state.retained is None else torch.ones_like(state.retained),
    )
