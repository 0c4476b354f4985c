"""The schedule of a Newton-Schulz iteration, and the normalisation before it.

Legend: N matrices of n x m.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# One triple (a, b, c) per step, the last one repeated: X <- a X + b (X X') X + c (X X')^2 X.
COEFFICIENTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    # Jordan et al. (Muon): singular values end in about [0.68, 1.13].
    "jordan": ((3.4445, -4.7750, 2.0315),),
    # Amsel et al. (2505.16932), minimax-optimal per step: singular values converge to 1.
    "polar_express": (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
        (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
        (1.875, -1.25, 0.375),
    ),
    # LaCT's code (2505.23884): five steps, each with its own triple.
    "lact": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}
SMALLEST_NORM = 1e-7  # matrices with a smaller norm are divided by this, not by their norm


class Schedule(NamedTuple):
    """How a result was made: (a, b, c) of every step, the type, and which of the two forms."""

    triples: tuple[tuple[float, float, float], ...]
    compute: torch.dtype
    by_kernel: bool


def make_schedule(steps: int, coefficients: str, compute: torch.dtype, by_kernel: bool) -> Schedule:
    """``steps`` steps of COEFFICIENTS[coefficients]."""
    triples = COEFFICIENTS[coefficients]
    steps_triples = tuple(triples[min(step, len(triples) - 1)] for step in range(steps))
    return Schedule(steps_triples, compute, by_kernel)


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, n, m) divided by its Frobenius norm, and that norm (N, 1, 1)."""
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return x / norm.clamp_min(SMALLEST_NORM), norm


def normalise_backward(grad: Tensor, normal: Tensor, norm: Tensor) -> Tensor:
    """The gradient of x; the part of ``grad`` along x does not move a normalised matrix."""
    along = torch.einsum("nij,nij->n", grad, normal)[:, None, None]
    along = torch.where(norm > SMALLEST_NORM, along, torch.zeros_like(along))
    return torch.addcmul(grad, along, normal, value=-1).div_(norm.clamp_min(SMALLEST_NORM))
