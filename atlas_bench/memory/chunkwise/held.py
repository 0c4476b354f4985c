"""The gradient of a memory's weights, held below a norm.

Rates near 1 can make the recurrence of `muon` chaotic; then its gradient grows without bound over
the chunks. Wherever weights are carried on, from chunk to chunk or from a segment of a hybrid to
the next, a head's gradient is scaled down to LARGEST_GRADIENT; useful gradients are far smaller.

Legend: G any leading dimensions, O and I the rows and columns of a weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_GRADIENT = 1e6


def hold_gradient(weight_GOI: Tensor) -> Tensor:
    """The same tensor; in every G its gradient has a norm of at most LARGEST_GRADIENT."""
    return _HeldGradient.apply(weight_GOI)


class _HeldGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        # In float64, where the squares of float32's and bfloat16's largest numbers do not overflow.
        norm = torch.linalg.vector_norm(grad, dim=(-2, -1), keepdim=True, dtype=torch.float64)
        return grad * (LARGEST_GRADIENT / norm).clamp_max(1).to(grad.dtype)
