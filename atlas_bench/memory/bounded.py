"""The bounded step: a chunk's summed step is divided by max(1, rho), so that it cannot overshoot.

rho_p = max over the tokens i known at update point p of sum_j |C_pj| overlap_ij, where C_pj is the
coefficient of token j's gradient in W_p. With ``bounded_by='keys'`` the overlap is
|phi(k_i).phi(k_j)|, which makes a matrix memory's step a contraction. How far a deep memory's
output moves also depends on its weights; ``network`` takes them into account. It also scales the
momentum that leaves the chunk like the step: unscaled, the next chunk would do what this one was
not allowed to do.

Legend: P update points, J tokens that are learnt from, D features, V value size, O and I the rows
and columns of a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.networks import Factors
from atlas_bench.memory.spec import MemorySpec

SMALLEST_ERROR = 1e-6  # smaller errors count as this large: there is nothing left to overshoot


def step_overlap(spec: MemorySpec, phi: Tensor, factors: Factors, error: Tensor) -> Tensor:
    """How far a step on token j moves the output at token i, to first order at most: (..., J, J).

    phi (..., J, D), error (..., J, V), factors of every weight (..., J, O) and (..., J, I). It is
    the sum over the weights of |right_i.right_j| |left_i| |left_j| / (|error_i| |error_j|). A left
    factor is the output's error sent back to that weight, so the ratio of the two is the gain on
    the way (exactly, in the direction of the token's own error). For a matrix the gain is 1, and
    the overlap is |phi(k_i).phi(k_j)|.
    """
    plain = spec.network == "matrix" and not spec.branch_norm
    if spec.bounded_by == "keys" or plain:
        return (phi @ phi.mT).abs()
    size = torch.linalg.vector_norm(error, dim=-1, keepdim=True).clamp_min(SMALLEST_ERROR)
    total = None
    for left, right in factors.values():
        gain = torch.linalg.vector_norm(left, dim=-1, keepdim=True) / size
        scaled = right * gain
        part = (scaled @ scaled.mT).abs()
        total = part if total is None else total + part
    return total


def shrink_factor(spec: MemorySpec, applied: Tensor, overlap: Tensor, seen: Tensor) -> Tensor:
    """1 / max(1, rho), (..., P), for coefficients ``applied`` (..., P, J) of the gradients.

    ``overlap`` (..., J, J); ``seen`` bool (..., P, J): the tokens known at each update point. With
    ``bounded_by='network'`` it is a constant to the outer gradient: a limit, not a way to learn.
    """
    reach = applied.abs().to(overlap.dtype) @ overlap
    factor = 1 / torch.where(seen, reach, reach.new_zeros(())).amax(-1).clamp_min(1)
    return factor.detach() if spec.bounded_by == "network" else factor


def bounded_rate(rate: Tensor, phi: Tensor) -> Tensor:
    """The bounded step of chunks of one token, whose rho is their own step: (J), (J, D) -> (J)."""
    return rate / (rate.abs() * phi.square().sum(-1)).clamp_min(1)
