"""The short causal convolution in front of memories and, where asked for, of attention."""

from __future__ import annotations

import torch
from torch import Tensor

CONVOLUTION = 4  # tokens, as in Titans and Miras


class _Convolution(torch.autograd.Function):
    """Causal depthwise convolution of (B, CONVOLUTION - 1 + T, C) with (C, CONVOLUTION): (B, T, C).

    Shifted products, added in place: on a CPU faster than a grouped convolution, and by hand
    because autograd makes a padded copy of the gradient for every shift.
    """

    @staticmethod
    def forward(ctx, known: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(known, taps)
        length = known.shape[1] - CONVOLUTION + 1
        y = known[:, :length] * taps[:, 0]
        for i in range(1, CONVOLUTION):
            y.addcmul_(known[:, i : i + length], taps[:, i])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        known, taps = ctx.saved_tensors
        length = grad.shape[1]
        to_known = torch.zeros_like(known)
        to_taps = torch.empty_like(taps)
        for i in range(CONVOLUTION):
            to_known[:, i : i + length].addcmul_(grad, taps[:, i])
            to_taps[:, i] = (grad * known[:, i : i + length]).sum((0, 1))
        return to_known, to_taps


def convolve(weights_CL: Tensor, x_BTC: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """The causal convolution of every channel by itself, and the last inputs, its next tail."""
    known = torch.cat([tail.to(x_BTC.dtype), x_BTC], 1)
    y = _Convolution.apply(known, weights_CL.to(x_BTC.dtype))
    return y, known[:, x_BTC.shape[1] :]
