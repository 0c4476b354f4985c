"""A matrix with one keep-rate per feature (gated linear attention, 2312.06635), by chunks.

The scalar form's products of keep-rates become products per feature, which do not factor out of
q.k. They are formed for each pair of tokens of a chunk, so that keep-rates of 0 and long products
stay exact.

Legend: N chunks, G = batch x heads, U update points of a chunk, P = U + 1 (row 0 is its start), J
tokens that are learnt from, X tokens that read, D features, V value size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.chunkwise.coefficients import decay_products
from atlas_bench.memory.chunkwise.scan import scan
from atlas_bench.memory.chunkwise.segment import Segment, Weights, named, outer_sum
from atlas_bench.memory.networks import gradient_factors
from atlas_bench.memory.spec import MemorySpec


def run_channel(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V), and W and S after the segment."""
    rows = x.rows
    # `blend` holds eta below the diagonal, because the scalar keep-rates are 1 here.
    eta = rows.blend[..., 1:, :].diagonal(dim1=-2, dim2=-1)
    products, kept = decay_products(rows.channel_keep)  # (N, G, D, U, U), (N, G, D, U)
    blend = products * eta[..., None, None, :]
    step = torch.einsum("ngdpu,nguj->ngpjd", blend, rows.momentum_step[..., 1:, :])
    step = torch.nn.functional.pad(step, (0, 0, 0, 0, 1, 0))
    keep = torch.nn.functional.pad(kept.mT, (0, 0, 1, 0), value=1.0)  # (N, G, P, D)
    used = torch.einsum("ngdpu,ngu->ngpd", blend, rows.momentum_keep[..., 1:])
    used = torch.nn.functional.pad(used, (0, 0, 1, 0))
    start = (*x.weights.values(), *x.momentum.values())
    chunk_start_weights = None if x.place == 0 else x.chunk_start_weights

    def advance(state: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        k, phi, v, q, phi_q, keep, used, step, momentum_keep, momentum_step = inputs
        weights, momentum = named(spec, state)
        weight = weights["W1"]
        factors, _ = gradient_factors(spec, chunk_start_weights or weights, phi, k, v)
        left, right = factors["W1"]
        dtype = left.dtype
        after = keep[:, -1, None] * weight - left.mT @ (step[:, -1].to(dtype) * right)
        state = (after,)
        read_keep, read_step = (
            part.index_select(1, rows.token_rows).to(dtype) for part in (keep, step)
        )
        y = (phi_q * read_keep) @ weight.to(phi_q.dtype).mT
        if momentum:
            old = momentum["W1"]
            read_used = used.index_select(1, rows.token_rows).to(dtype)
            y = y - (phi_q * read_used) @ old.to(phi_q.dtype).mT
            added = outer_sum(left, momentum_step[:, -1], right)
            kept = momentum_keep[:, -1, None, None] * old + added
            state = (after - used[:, -1, None] * old, kept)
        pairs = torch.einsum("gxd,gjd,gxjd->gxj", phi_q, right, read_step)
        return state, (y - pairs @ left,)

    last, _, (y,) = scan(
        advance,
        start,
        (
            x.k_NGJK, x.phi_k_NGJD, x.v_NGJV, x.q_NGXK, x.phi_q_NGXD,
            keep, used, step, rows.momentum_keep, rows.momentum_step,
        ),
        starts=False,
    )  # fmt: skip
    return (y, *named(spec, last))
