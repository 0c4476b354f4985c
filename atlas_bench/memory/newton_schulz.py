"""Newton-Schulz orthogonalisation: the `muon` optimizer's O (ATLAS Eq 32, 40).

Legend: N matrices of n x m; X (N, n, m) an iterate; A = X X' and P = b A + c A^2, (N, n, n).
"""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.memory.kernels import available
from atlas_bench.memory.schedule import make_schedule, normalise, normalise_backward


def newton_schulz(
    x: Tensor, steps: int = 5, coefficients: str = "jordan", compute: torch.dtype | None = None
) -> Tensor:
    """Push the singular values of (..., n, m) towards 1; zero stays zero.

    ``x`` is float32 or wider and is normalised by its Frobenius norm in that type. The iteration
    runs over the smaller side in ``compute`` (None: the type of ``x``). The result has the type of
    ``x``. ``steps=0`` gives the normalised matrix. This is always the torch form, because the
    token-by-token recurrence uses it and a kernel must not be compared with itself.
    """
    flat = x.reshape(-1, *x.shape[-2:])
    return _Orthogonalise.apply(flat, steps, coefficients, compute or x.dtype).view(x.shape)


def orthogonalise(
    x: Tensor, steps: int, coefficients: str, compute: torch.dtype
) -> tuple[Tensor, tuple]:
    """`newton_schulz` of (N, n, m) without autograd, and what `orthogonalise_backward` needs.

    The kernel runs where `kernels.available` says so, else the torch form. The context is
    (normal, norm, Schedule, *iterates); the kernel keeps no iterates.
    """
    if available(x, compute):
        from atlas_bench.memory.kernels import newton_schulz as kernel

        return kernel.orthogonalise(x, steps, coefficients, compute)
    return torch_form(x, steps, coefficients, compute)


def orthogonalise_backward(grad: Tensor, context: tuple) -> Tensor:
    """The gradient of x from that of the result, with the form that made the context."""
    if context[2].by_kernel:
        from atlas_bench.memory.kernels import newton_schulz as kernel

        return kernel.orthogonalise_backward(grad, context)
    return torch_form_backward(grad, context)


def torch_form(
    x: Tensor, steps: int, coefficients: str, compute: torch.dtype
) -> tuple[Tensor, tuple]:
    """X <- a X + P X; if n > m, A is X' X and P multiplies from the right.

    Keeps X, A and P of every step.
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
    """The gradient of x; A and P are symmetric, which saves products."""
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
