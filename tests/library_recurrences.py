"""What kernels of flash-linear-attention compute, token by token, as its documentation has it.

Written from the descriptions and plain forms in fla-core 0.6.0 (``fla/ops/*/naive.py``), with its
names, shapes and defaults: q, k, g (B, T, H, K) or g (B, T, H), v (B, T, H, V), beta (B, T, H), g
the logarithm of the decay, states (B, H, K, V), ``scale`` 1 / sqrt(K) where it is left out.
"""

from __future__ import annotations

import pytest
import torch

from atlas_bench.memory import fla
from atlas_bench.memory.spec import state_dtype


def _recurrence(q, k, v, g, beta, scale, initial_state, output_final_state):
    """S = exp(g) S, then S + k v' (beta=None) or S + beta k (v - S k)', then y = scale q S."""
    assert q.dtype == k.dtype == v.dtype
    assert q.shape == k.shape
    assert v.shape[:3] == q.shape[:3]
    batch, length, heads, keys = q.shape
    scale = keys**-0.5 if scale is None else scale
    state = v.new_zeros(batch, heads, keys, v.shape[-1], dtype=state_dtype(v.dtype))
    if initial_state is not None:
        assert initial_state.dtype == state.dtype
        assert initial_state.shape == state.shape
        state = initial_state
    outputs = []
    for t in range(length):
        if g is not None:
            decay = g[:, t].exp()
            state = state * (decay[..., None] if g.dim() == 4 else decay[..., None, None])
        target = v[:, t]
        if beta is not None:
            assert beta.shape == q.shape[:3]
            held = (k[:, t, :, :, None] * state).sum(-2)
            target = beta[:, t, :, None] * (target - held)
        state = state + k[:, t, :, :, None] * target[..., None, :]
        outputs.append((scale * q[:, t, :, :, None] * state).sum(-2).to(v.dtype))
    return torch.stack(outputs, 1), state if output_final_state else None


def chunk_simple_gla(q, k, v, g=None, scale=None, initial_state=None, output_final_state=False):
    assert g is None or g.shape == q.shape[:3]
    return _recurrence(q, k, v, g, None, scale, initial_state, output_final_state)


def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False):
    assert g.shape == q.shape
    return _recurrence(q, k, v, g, None, scale, initial_state, output_final_state)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False):
    return _recurrence(q, k, v, None, beta, scale, initial_state, output_final_state)


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False
):
    assert g.shape == q.shape[:3]
    return _recurrence(q, k, v, g, beta, scale, initial_state, output_final_state)


def chunk_kda(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
    assert g.shape == q.shape
    return _recurrence(q, k, v, g, beta, scale, initial_state, output_final_state)


def chunk_mesa_net(
    q, k, v, g, beta, lamb, h_kk_init=None, h_kv_init=None, output_final_state=False,
    max_CG_iteration=30,
):  # fmt: skip
    """Two states that decay, of keys and of values; the system solved exactly."""
    assert q.shape == k.shape == v.shape
    assert lamb.shape == q.shape[2:]
    squares, values, outputs = h_kk_init, h_kv_init, []
    for t in range(q.shape[1]):
        decay = g[:, t].exp()[..., None, None]
        written = beta[:, t, :, None] * k[:, t]
        squares = decay * squares + written[..., None] * k[:, t, :, None, :]
        values = decay * values + written[..., None] * v[:, t, :, None, :]
        solved = torch.linalg.solve(squares + torch.diag_embed(lamb), q[:, t].to(squares.dtype))
        outputs.append((solved[..., None] * values).sum(-2).to(v.dtype))
    return torch.stack(outputs, 1), squares, values


KERNELS = {
    "simple_gla": chunk_simple_gla,
    "gla": chunk_gla,
    "delta_rule": chunk_delta_rule,
    "gated_delta_rule": chunk_gated_delta_rule,
    "kda": chunk_kda,
    "mesa_net": chunk_mesa_net,
}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """These in place of the kernels; how often each is called."""
    calls: dict[str, int] = {}

    def kernel(name: str):
        calls[name] = calls.get(name, 0) + 1
        return KERNELS[name]

    monkeypatch.setattr(fla, "_kernel", kernel)
    return calls
