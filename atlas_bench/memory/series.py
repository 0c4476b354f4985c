"""Two delta rules in series: a two-layer memory that learns layer by layer, exactly.

DeltaTTT (2610.08553) gives each layer of B silu(A k) a target of its own, the value. Each is then a
linear regression with the delta rule for its gradient step:

    A_t = A_(t-1) + alpha_t (v_t - A_(t-1) k_t) k_t'        Eq 9
    h_t = silu(A_(t-1) k_t)                                 Eq 10, DeltaTTT-pre
    B_t = B_(t-1) + beta_t (v_t - B_(t-1) h_t) h_t'         Eq 11
    y_t = B_t silu(A_t q_t)                                 Eq 12

A does not depend on B, and B's keys depend on A alone, so both have the closed form of
chunkwise/delta.py: no gradient is frozen. What the spec adds to the paper (features of the keys,
keep-rates, the bounded step) acts on both layers, the features on the keys of A.

Legend: B batch, T tokens, H heads, K key size, V value size, D features.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from atlas_bench.memory.chunkwise.forward import chunk_memory
from atlas_bench.memory.networks import init_parameters
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState

INITIAL_DEVIATION = 0.02  # of A_0 and B_0 (DeltaTTT, Appendix C and Table 8)
INITIAL_DIAGONAL = 0.5  # of B_0: a query that A answers is read through from the start


def init_series(
    spec: MemorySpec,
    *,
    heads: int,
    key_dim: int,
    value_dim: int,
    generator: Generator | None = None,
) -> MemoryParameters:
    """A_0 as ``W2`` (H, V, D) and B_0 as ``W1`` (H, V, V), float32, and what phi needs.

    The names are those of a network of two layers, whose outer matrix is ``W1``. The paper's B_0 is
    L R + I / 2 with L R of half the rank; here it is I / 2 and a full matrix.
    """
    sizes = {"heads": heads, "value_dim": value_dim, "generator": generator}
    start = init_parameters(spec, key_dim=key_dim, **sizes)
    shapes = {"W1": (heads, value_dim, value_dim), "W2": start.weights["W1"].shape}
    weights = {
        name: INITIAL_DEVIATION * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    weights["W1"] = weights["W1"] + INITIAL_DIAGONAL * torch.eye(value_dim)
    return replace(start, weights=weights)


def series_memory(
    spec: MemorySpec,
    params: MemoryParameters,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: tuple[Gates, Gates],
    state: MemoryState | None = None,
) -> tuple[Tensor, MemoryState]:
    """y (B, T, H, V), and the state with both layers' weights.

    ``spec`` is a delta rule; q, k (B, T, H, K) and v (B, T, H, V) as in `chunk_memory`; ``gates``
    are those of A and of B. Any T and any split into calls give the same result.
    """
    inner = replace(params, weights={"W1": params.weights["W2"]})
    both, first = chunk_memory(
        spec, inner, q, k, v, gates[0], _layer(state, "W2", "k"), predict=True
    )
    query, key = F.silu(both).chunk(2, -1)
    outer = MemoryParameters({"W1": params.weights["W1"]})
    spec = replace(spec, features="identity")
    y, second = chunk_memory(spec, outer, query, key, v, gates[1], _layer(state, "W1", "v"))
    weights = {"W1": second.weights["W1"], "W2": first.weights["W1"]}
    return y, replace(first, weights=weights, chunk_start_weights=weights)


def _layer(state: MemoryState | None, name: str, keys: str) -> MemoryState | None:
    """The state of one layer; what the delta rule remembers of tokens is always empty, and its keys
    have the size of ``keys``."""
    if state is None:
        return None
    weights = {"W1": state.weights[name]}
    recent = state.recent | {"k": state.recent[keys]}
    return replace(state, weights=weights, chunk_start_weights=weights, recent=recent)
