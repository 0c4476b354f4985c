"""What a network is read with: the weights that are updated, or a function of them (Miras).

Miras (2504.13173) derives an update from what it keeps near the past. Each is one linear update

    A_t = alpha_t A_(t-1) - eta_t u_t          u_t: the gradient at W_t'
    W_t = R(A_t)                               what is read, and where gradients are taken

    l2   W = A                                 Yaad, Eq 26, and everything else here
    lq   W = A / ||A||_q^(q - 2)               Moneta, Eq 24; one norm for each matrix
    kl   W = c Softmax(A)                      Memora, Eq 27; each row, c its number of entries

Eq 27 is W_t = Softmax(alpha_t log W_(t-1) - eta_t u_t). log W and A differ by a constant for each
row, which the next softmax cancels, so this A gives the same W. The update is linear in A, whatever
R is: a chunk freezes its gradients and nothing else, and R is applied wherever weights are read.
Miras trains with R at the ends of chunks only (section 5.4), which is the same for chunks of one.

Legend: H any leading dimensions, O and I the rows and columns of a weight.
"""

from __future__ import annotations

from torch import Tensor

from atlas_bench.memory.spec import MemorySpec

SMALLEST_POWER = 1e-12  # added to ||A||_q^q, so that the norm of 0 has a slope


def read_weights(spec: MemorySpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """W = R(A) of every weight: name -> (..., O, I), in the type of A."""
    if spec.retention == "l2":
        return weights
    return {name: _read_weight(spec, weight) for name, weight in weights.items()}


def _read_weight(spec: MemorySpec, a_HOI: Tensor) -> Tensor:
    if spec.retention == "kl":
        return a_HOI.softmax(-1) * a_HOI.shape[-1]
    q = spec.retention_power
    power = a_HOI.square().pow(q / 2).sum((-2, -1), keepdim=True) + SMALLEST_POWER
    return a_HOI / power.pow((q - 2) / q)
