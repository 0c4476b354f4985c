"""Chunks whose weights are read through a retention, W = R(A): `lq` and `kl` (Miras Eq 24, 27).

A is linear in the chunk's gradients, but R is not, so A is formed at every update point of a chunk
and mapped, as `muon.py` forms S. Miras saves that: it applies R at the ends of chunks only.

Legend: N chunks, G = batch x heads, P update points of a chunk and its start, J tokens that are
learnt from, X tokens that read, V value size, O and I the rows and columns of a weight.
"""

from __future__ import annotations

from torch import Tensor

from atlas_bench.memory.chunkwise.muon import KEPT_BYTES, read_versions
from atlas_bench.memory.chunkwise.scan import scan
from atlas_bench.memory.chunkwise.segment import Segment, Weights, named, outer_sum, times
from atlas_bench.memory.networks import gradient_factors
from atlas_bench.memory.retention import read_weights
from atlas_bench.memory.spec import MemorySpec

KEPT_MATRICES = 6  # of a weight's size that autograd keeps for every update point


def run_mapped(spec: MemorySpec, x: Segment) -> tuple[Tensor, Weights, Weights]:
    """y (N, G, X, V), and A and S after the segment."""
    rows, read = x.rows, x.rows.read
    inputs = (
        x.q_NGXK, x.phi_q_NGXD, x.k_NGJK, x.phi_k_NGJD, x.v_NGJV, read.keep,
        read.keep if read.momentum is None else read.momentum, read.step,
        rows.momentum_keep[..., -1], rows.momentum_step[..., -1, :],
    )  # fmt: skip
    more = x.loss_inputs
    chunk_start_weights = None if x.place == 0 else x.chunk_start_weights

    def step(state: tuple, part: tuple) -> tuple[tuple, tuple]:
        q, phi_q, k, phi, v, keep, used, step, keep_momentum, sigma, *rest = part
        given = dict(zip(more, rest, strict=True))
        weights, momentum = named(spec, state)
        frozen = read_weights(spec, chunk_start_weights or weights)
        factors, _ = gradient_factors(spec, frozen, phi, k, v, **given)
        versions, new_momentum = {}, []
        for name, weight in weights.items():
            left, right = factors[name]
            written = (left[:, None] * step[..., None].to(left.dtype)).mT @ right[:, None]
            versions[name] = times(keep, weight[:, None]) - written
            if momentum:
                old = momentum[name]
                versions[name] = versions[name] - times(used, old[:, None])
                added = outer_sum(left, sigma, right)
                new_momentum.append(times(keep_momentum, old) + added)
        last = tuple(version[:, -1] for version in versions.values())
        mapped = read_weights(spec, versions)
        y = read_versions(spec, mapped, phi_q, q, v.shape[-1], x.place, given.get("gain"))
        return (*last, *new_momentum), (y,)

    size = sum(weight.numel() for weight in x.weights.values()) * read.keep.element_size()
    kept = KEPT_MATRICES * read.keep.shape[0] * read.keep.shape[-1] * size
    start = (*x.weights.values(), *x.momentum.values())
    last, _, (y,) = scan(
        step, start, (*inputs, *more.values()), starts=False, recompute=kept > KEPT_BYTES
    )
    return (y, *named(spec, last))
