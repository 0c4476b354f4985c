"""Newton-Schulz orthogonalisation: the `muon` optimizer's O (ATLAS Eq 32, 40)."""

from __future__ import annotations

import torch
from torch import Tensor

# One triple (a, b, c) a step, the last one repeated: X <- a X + b (X X') X + c (X X')^2 X.
COEFFICIENTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    # Jordan et al. (Muon): singular values end in about [0.68, 1.13].
    "jordan": ((3.4445, -4.7750, 2.0315),),
    # Amsel et al. (2505.16932), minimax-optimal per step: they converge to 1.
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
}


def newton_schulz(
    x: Tensor, steps: int = 5, coefficients: str = "jordan", compute: torch.dtype | None = None
) -> Tensor:
    """Push the singular values of (..., n, m) towards 1; zero stays zero.

    ``x`` is float32 or wider and is normalised by its Frobenius norm in that type; the iteration
    runs on the wide orientation in ``compute`` (None: the type of ``x``), and the result has the
    type of ``x`` again. ``steps=0`` gives the normalised matrix.
    """
    dtype = x.dtype
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = (x / norm.clamp_min(1e-7)).to(compute or dtype)
    triples = COEFFICIENTS[coefficients]
    schedule = tuple(triples[min(step, len(triples) - 1)] for step in range(steps))
    batch = x.shape[:-2]
    x = _Iterate.apply(x.reshape(-1, *x.shape[-2:]), schedule)
    x = x.reshape(*batch, *x.shape[-2:]).to(dtype)
    return x.mT if tall else x


class _Iterate(torch.autograd.Function):
    """X <- a X + P X with P = b A + c A^2, A = X X', for every triple of the schedule.

    The backward uses that A and P are symmetric, which halves autograd's products.
    """

    @staticmethod
    def forward(ctx, x: Tensor, schedule: tuple[tuple[float, float, float], ...]) -> Tensor:
        saved = []
        for a, b, c in schedule:
            gram = torch.bmm(x, x.mT)
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            saved += [x, gram, polynomial]
            x = torch.baddbmm(x, polynomial, x, beta=a)
        ctx.schedule = schedule
        ctx.save_for_backward(*saved)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        for step in reversed(range(len(ctx.schedule))):
            a, b, c = ctx.schedule[step]
            x, gram, polynomial = ctx.saved_tensors[3 * step : 3 * step + 3]
            # dX = a dY + P dY + (dA + dA') X with dP = dY X', dA = b dP + c (dP A + A dP)
            outer = torch.bmm(grad, x.mT)
            outer = outer + outer.mT
            half = torch.bmm(outer, gram)
            both = torch.add(half, half.mT).mul_(c).add_(outer, alpha=b)
            grad = torch.baddbmm(grad, polynomial, grad, beta=a).baddbmm_(both, x)
        return grad, None
