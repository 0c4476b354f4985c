"""The kernels of flash-linear-attention, for the members of the family that it has.

With the `[gpu]` extra, on a GPU and in bfloat16, `chunk_memory` uses by itself, with any features,

    chunk_simple_gla           dot, retain none, scalar or fixed    linear_attention, retnet
    chunk_gla                  dot, retain channel                  gla
    chunk_delta_rule           l2, retain none                      deltanet
    chunk_gated_delta_rule     l2, retain scalar or fixed           gated_deltanet

for a matrix with `gd` and a window (for l2 also a chunk) of one token. float32 stays on the torch
forms, because the kernels multiply it in TF32. Keep-rates from `hard_sigmoid` stay there too: they
can be exactly 0, and the kernels take their logarithm. Those of a sigmoid are held above
SMALLEST_KEEP, far below what bfloat16 can resolve.

The library's gated delta rule decays before it takes the error, W_t = a W (I - b k k') + b u k'.
Ours takes the error of the memory before its decay (ATLAS Eq 11), W_t = a W - r (W k - v) k'. Both
are equal with b = r / a and u = a v. In the kernel b appears only next to a decay by a, so nothing
grows as a falls, and the gradient of the sigmoid that makes a stays exact.

The library's states are (B, H, K, V), ours are transposed. Written for fla-core 0.6.0. The tests
compare it with the recurrences that the library documents, and run its kernels in Triton's
interpreter in float16; benchmarks/gpu_check.py compares it on a GPU.

Legend: B batch, T tokens, H heads, K key size, V value size, D features.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from atlas_bench.memory.bounded import bounded_rate
from atlas_bench.memory.features import apply_features
from atlas_bench.memory.spec import MemoryParameters, MemorySpec, MemoryState, state_dtype

SMALLEST_KEEP = 1e-6
SIZES = range(16, 257, 2)  # sizes of keys and values that all kernels accept in 16-bit types


@cache
def unavailable_reason() -> str | None:
    """Why the kernels cannot run here; continues "flash-linear-attention's kernels, ..."."""
    if not torch.cuda.is_available():
        return "which need a GPU, and torch sees none; use a machine that has one, or another model"
    if find_spec("fla") is None or find_spec("triton") is None:
        return "which are not installed; in a clone, use pip install -e '.[gpu]'"
    # The library refuses these versions on Hopper itself, but only in training (its issue 640).
    triton = importlib.metadata.version("triton")
    parts = tuple(int(part) for part in triton.split("+")[0].split(".")[:3] if part.isdigit())
    if (3, 4) <= parts < (3, 7, 1) and torch.cuda.get_device_capability()[0] == 9:
        return f"which are wrong on this GPU with triton {triton}; use triton>=3.7.1"
    return None


@cache
def _kernel(name: str) -> Callable:
    """`fla.ops.NAME.chunk_NAME`. The first import takes seconds."""
    return getattr(import_module(f"fla.ops.{name}"), f"chunk_{name}")


def call(name: str, **arguments: object) -> tuple:
    """The result of the library's ``chunk_NAME``, outside autocast, because it mixes no types."""
    kind = arguments["q"].device.type
    with torch.autocast(kind, enabled=False):
        return _kernel(name)(**arguments)


def operation(spec: MemorySpec) -> str | None:
    """The kernel that computes this member of the family exactly, or None."""
    plain = spec.network == "matrix" and spec.optimizer == "gd"
    other = spec.branch_norm or spec.retention != "l2"
    if not plain or other or spec.window > 1 or spec.update_every > 1:
        return None
    if spec.retain in ("scalar", "channel") and spec.gate != "sigmoid":
        return None
    if spec.is_delta_rule:
        return "delta_rule" if spec.retain == "none" else "gated_delta_rule"
    if spec.objective != "dot" or spec.is_bounded:
        return None
    return "gla" if spec.retain == "channel" else "simple_gla"


def applies(spec: MemorySpec, params: MemoryParameters, v: Tensor) -> bool:
    """Whether `run` handles these tokens, values (B, H, T, V)."""
    return (
        v.is_cuda
        and v.dtype == torch.bfloat16
        and v.shape[2] > 0
        and operation(spec) is not None
        and all(size in SIZES for size in params.weights["W1"].shape[1:])
        and unavailable_reason() is None
    )


def run(
    spec: MemorySpec, params: MemoryParameters, inputs: dict[str, Tensor], state: MemoryState
) -> tuple[Tensor, MemoryState]:
    """y (B, T, H, V) and the state after the tokens, for inputs as `checked_inputs` returns them.

    A token may stand anywhere in a chunk: with a window of 1, `dot` does not use the weights at the
    chunk's start, and the delta rule's chunks are single tokens.
    """
    inputs = {name: x.transpose(1, 2) for name, x in inputs.items()}
    v, dtype = inputs["v"], state_dtype(inputs["v"].dtype)
    q, k = (apply_features(spec, params, inputs[name]).to(v.dtype) for name in ("q", "k"))
    weight = inputs["weight"]
    weight = weight[..., 0] if spec.window_weights == "pair" else weight
    rate, keep = (inputs["rate"] * weight).to(dtype), inputs["retain"].to(dtype)
    # No gradient is lost below the floor, because there the sigmoid's own gradient is as small.
    keep = keep + (SMALLEST_KEEP - keep).clamp_min(0).detach()
    name, gates = operation(spec), {}
    if spec.is_delta_rule:
        rate = bounded_rate(rate, k.to(dtype)) if spec.is_bounded else rate
        if name == "gated_delta_rule":
            gates["g"] = keep.log()
            rate, v = rate / keep, (keep[..., None] * v).to(v.dtype)
        gates["beta"] = rate
    else:
        v = (rate[..., None] * v).to(v.dtype)
        if spec.retain != "none":
            gates["g"] = keep.log()
    start = state.weights["W1"].mT
    y, end = call(
        name, q=q, k=k, v=v, **gates, scale=1.0, initial_state=start, output_final_state=True
    )
    weights = {"W1": end.mT}
    position = state.position + v.shape[1]
    return y, replace(state, weights=weights, chunk_start_weights=weights, position=position)
