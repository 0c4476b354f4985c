"""What the recurrence and the chunk-parallel form share: input checks and the first state.

Legend: B batch, T tokens, H heads, K key size, V value size, D features, c tokens of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState, state_dtype


def without_autocast(like: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``like``; autocast does not know the meta one."""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


def checked_inputs(
    spec: MemorySpec, params: MemoryParameters, q: Tensor, k: Tensor, v: Tensor, gates: Gates
) -> dict[str, Tensor]:
    """A dict of q, k (B, H, T, K), v (B, H, T, V) and the gates, (B, H, T) or (B, H, T, ...).

    Gates that the spec does not use get the value that leaves them out: retain 1 for `none`, rate 1
    for ``rate_inside``, momentum 0 for `gd`. The threshold is there for `huber` only. The bias of a
    layer norm is taken from v: a loss of M(k) - v depends on their difference alone. Raises
    ValueError for shapes that do not fit.
    """
    batch, length, heads, _ = q.shape
    shape = (batch, length, heads)
    if k.shape != q.shape or v.shape[:3] != shape:
        raise ValueError(
            f"q, k, v must be (B, T, H, d) alike, got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}"
        )
    if spec.has_momentum and gates.momentum is None:
        raise ValueError(f"optimizer={spec.optimizer} needs gates.momentum of shape {shape}")
    # Lower precision would round keep-rates near 1 to 1, so gates have the state's type.
    precision = state_dtype(q.dtype)
    one = q.new_ones(shape, dtype=precision)
    given = {
        "retain": None if spec.retain == "none" else gates.retain,
        "rate": None if spec.rate_inside else gates.rate,
        "momentum": gates.momentum if spec.has_momentum else torch.zeros_like(one),
        "weight": gates.weight,
    }
    if spec.objective == "huber":
        given["threshold"] = gates.threshold
    pair = spec.window_weights == "pair"
    if params.norm_bias is not None and spec.objective != "dot":
        v = v - params.norm_bias.transpose(0, 1).to(v.dtype)
    inputs = {"q": q, "k": k, "v": v}
    for name, gate in given.items():
        expected = (*shape, spec.window) if name == "weight" and pair else shape
        if name == "retain" and spec.retain == "channel":
            expected = (*shape, params.weights["W1"].shape[-1])
        if gate is None:
            gate = q.new_ones(expected, dtype=precision)
        if gate.shape != expected:
            raise ValueError(f"gates.{name} must be {expected}, got {tuple(gate.shape)}")
        inputs[name] = gate.to(precision)
    first = params.weights["W1"]
    if first.shape[0] != heads or first.shape[1] != v.shape[-1]:
        raise ValueError(
            f"W1 of shape {tuple(first.shape)} does not fit {heads} heads of values of size "
            f"{v.shape[-1]}"
        )
    return {name: tensor.transpose(1, 2) for name, tensor in inputs.items()}


def with_bias(params: MemoryParameters, y_BTHV: Tensor) -> Tensor:
    """What was read, plus the bias of the branch's layer norm."""
    bias = params.norm_bias
    return y_BTHV if bias is None else y_BTHV + bias.transpose(0, 1).to(y_BTHV.dtype)


def initial_state(
    spec: MemorySpec, params: MemoryParameters, inputs: dict[str, Tensor]
) -> MemoryState:
    """W_0 for every batch element, S_0 = 0, nothing recent."""
    batch, heads = inputs["k"].shape[:2]
    weights = {
        name: weight.to(state_dtype(weight.dtype)).expand(batch, *weight.shape)
        for name, weight in params.weights.items()
    }
    momentum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    recent = {name: x[:, :, :0] for name, x in inputs.items() if name != "q"}
    bounded = spec.is_bounded
    one = weights["W1"].new_ones(batch, heads)
    return MemoryState(
        weights=weights,
        momentum=momentum if spec.has_momentum else {},
        chunk_start_weights=weights,
        position=0,
        recent=recent,
        applied=one.new_zeros(batch, heads, 0) if bounded else None,
        applied_momentum=one.new_zeros(batch, heads, 0) if bounded else None,
        retained=one if bounded else None,
    )
