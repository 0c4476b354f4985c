"""Newton-Schulz orthogonalisation: the `muon` optimizer's O (ATLAS Eq 32, 40)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from atlas_bench.memory.kernels import available

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


SMALLEST_NORM = 1e-7  # matrices below it are scaled by its inverse, not to norm 1


class Schedule(NamedTuple):
    """How a result was made: one (a, b, c) a step, the type, and by which of the two forms."""

    triples: tuple[tuple[float, float, float], ...]
    compute: torch.dtype
    by_kernel: bool


def newton_schulz(
    x: Tensor, steps: int = 5, coefficients: str = "jordan", compute: torch.dtype | None = None
) -> Tensor:
    """Push the singular values of (..., n, m) towards 1; zero stays zero.

    ``x`` is float32 or wider and is normalised by its Frobenius norm in that type; the iteration
    runs over the smaller side in ``compute`` (None: the type of ``x``), and the result has the
    type of ``x`` again. ``steps=0`` gives the normalised matrix. This is always the torch form:
    the token-by-token reference uses it, so that a kernel is never compared with itself.
    """
    flat = x.reshape(-1, *x.shape[-2:])
    return _Orthogonalise.apply(flat, steps, coefficients, compute or x.dtype).view(x.shape)


def orthogonalise(
    x: Tensor, steps: int, coefficients: str, compute: torch.dtype
) -> tuple[Tensor, tuple]:
    """`newton_schulz` of (N, n, m) without autograd, and what `orthogonalise_backward` needs.

    By the kernel wherever `kernels.available` says so, else by the torch form. The context is
    (normal, norm, Schedule, *iterates), of which the kernel keeps none.
    """
    if available(x, compute):
        from atlas_bench.memory.kernels import newton_schulz as kernel

        return kernel.orthogonalise(x, steps, coefficients, compute)
    return torch_form(x, steps, coefficients, compute)


def orthogonalise_backward(grad: Tensor, context: tuple) -> Tensor:
    """The gradient of x from that of the result, by the form that gave the context."""
    if context[2].by_kernel:
        from atlas_bench.memory.kernels import newton_schulz as kernel

        return kernel.orthogonalise_backward(grad, context)
    return torch_form_backward(grad, context)


def make_schedule(steps: int, coefficients: str, compute: torch.dtype, by_kernel: bool) -> Schedule:
    triples = COEFFICIENTS[coefficients]
    steps_triples = tuple(triples[min(step, len(triples) - 1)] for step in range(steps))
    return Schedule(steps_triples, compute, by_kernel)


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """x over its Frobenius norm, and that norm (N, 1, 1)."""
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    return x / norm.clamp_min(SMALLEST_NORM), norm


def normalise_backward(grad: Tensor, normal: Tensor, norm: Tensor) -> Tensor:
    """Of x / max(|x|, smallest): the part along x does not move a normalised matrix."""
    along = torch.einsum("nij,nij->n", grad, normal)[:, None, None]
    along = torch.where(norm > SMALLEST_NORM, along, torch.zeros_like(along))
    return torch.addcmul(grad, along, normal, value=-1).div_(norm.clamp_min(SMALLEST_NORM))


def torch_form(
    x: Tensor, steps: int, coefficients: str, compute: torch.dtype
) -> tuple[Tensor, tuple]:
    """X <- a X + P X with P = b A + c A^2, A = X X'; where n > m the same with X' X, on the right.

    Three iterates a step are kept: X, A and P.
    """
    normal, norm = normalise(x)
    schedule = make_schedule(steps, coefficients, compute, by_kernel=False)
    tall = x.shape[-2] > x.shape[-1]
    y, saved = normal.to(compute), []
    for a, b, c in schedule.triples:
        gram = torch.bmm(y.mT, y) if tall else torch.bmm(y, y.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        saved += [y, gram, polynomial]
        y = torch.baddbmm(y, *((y, polynomial) if tall else (polynomial, y)), beta=a)
    return y.to(x.dtype), (normal, norm, schedule, *saved)


def torch_form_backward(grad: Tensor, context: tuple) -> Tensor:
    """A and P are symmetric, which saves products."""
    normal, norm, schedule, *saved = context
    tall = normal.shape[-2] > normal.shape[-1]
    dtype, grad = grad.dtype, grad.to(schedule.compute)
    for step in reversed(range(len(schedule.triples))):
        a, b, c = schedule.triples[step]
        x, gram, polynomial = saved[3 * step : 3 * step + 3]
        # dX = a dY + P dY + (dA + dA') X with dP = dY X', dA = b dP + c (dP A + A dP)
        outer = torch.bmm(x.mT, grad) if tall else torch.bmm(grad, x.mT)
        outer = outer + outer.mT
        half = torch.bmm(outer, gram)
        both = torch.add(half, half.mT).mul_(c).add_(outer, alpha=b)
        if tall:
            grad = torch.baddbmm(grad, grad, polynomial, beta=a).baddbmm_(x, both)
        else:
            grad = torch.baddbmm(grad, polynomial, grad, beta=a).baddbmm_(both, x)
    return normalise_backward(grad.to(dtype), normal, norm)


class _Orthogonalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, steps: int, coefficients: str, compute: torch.dtype) -> Tensor:
        y, context = torch_form(x, steps, coefficients, compute)
        normal, norm, ctx.schedule, *saved = context
        ctx.save_for_backward(normal, norm, *saved)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, norm, *saved = ctx.saved_tensors
        context = (normal, norm, ctx.schedule, *saved)
        return torch_form_backward(grad, context), None, None, None
