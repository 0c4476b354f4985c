"""The exact delta rule (matrix, l2, c = b = 1, gd) over many tokens at once: the WY / UT form.

W_t = alpha_t W_(t-1) + u_t k_t' with u_t = beta_t (v_t - W_(t-1) k_t) couples the u of a block only
through (I + M) U = beta V - (beta a K) W', where M is strictly lower triangular and follows from
keys and gates (DeltaNet 2406.06484; Gated DeltaNet 2412.06464 decays before the error, so there
u_t = beta_t (v_t - alpha_t W_(t-1) k_t)). One triangular solve serves all blocks; the W after a
block is an affine function of the W before it. What the memory gave for a key before it learnt the
token, W_(t-1) phi(k_t), follows from the same solution.

Legend: N blocks, G = batch x heads, L tokens of a block, D features, V value size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.bounded import bounded_rate
from atlas_bench.memory.chunkwise.coefficients import decay_products
from atlas_bench.memory.chunkwise.segment import Segment, Weights
from atlas_bench.memory.spec import MemorySpec, state_dtype

BLOCK = 64  # tokens; longer blocks need more products inside, shorter ones more steps


def run_delta(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, L, V), or (N, G, L, 2 V) with predictions; W after the segment, and no momentum."""
    dtype = state_dtype(x.v_NGJV.dtype)
    weight = x.tokens["weight"]
    weight = weight[..., 0] if spec.window_weights == "pair" else weight
    keep, beta = x.tokens["retain"].to(dtype), (x.tokens["rate"] * weight).to(dtype)
    phi, v, phi_q = (part.to(dtype) for part in (x.phi_k_NGJD, x.v_NGJV, x.phi_q_NGXD))
    if spec.is_bounded:
        beta = bounded_rate(beta, phi)
    products, kept = decay_products(keep)
    before = torch.nn.functional.pad(kept[..., :-1], (1, 0), value=1.0)
    between = torch.nn.functional.pad(products[..., :-1, :], (0, 0, 1, 0))
    system = (beta[..., None] * between * (phi @ phi.mT)).tril(-1)
    targets = torch.cat([beta[..., None] * v, (beta * before)[..., None] * phi], -1)
    solved = torch.linalg.solve_triangular(system, targets, upper=False, unitriangular=True)
    written, erased = solved.split([v.shape[-1], phi.shape[-1]], -1)  # U = written - erased W'
    weighted = products[..., -1, :, None] * phi
    added = written.mT @ weighted
    removed = erased.mT @ weighted
    weight, starts = x.weights["W1"], []
    for decay, gone, new in zip(kept[..., -1].unbind(0), removed, added, strict=True):
        starts.append(weight)
        weight = torch.baddbmm(new + decay[..., None, None] * weight, weight, gone, alpha=-1)
    start = torch.stack(starts)
    update = written - erased @ start.mT
    y = kept[..., None] * (phi_q @ start.mT) + ((phi_q @ phi.mT) * products) @ update
    if x.predict:
        seen = (between * (phi @ phi.mT)).tril(-1) @ update
        y = torch.cat([y, before[..., None] * (phi @ start.mT) + seen], -1)
    return y.to(x.v_NGJV.dtype), {"W1": weight}, {}
