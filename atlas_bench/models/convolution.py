"""The short causal convolution in front of memories and, if configured, of attention.

Legend: B batch, T tokens of this call, C channels, K = CONVOLUTION.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONVOLUTION = 4  # tokens, as in Titans and Miras


class _Convolution(torch.autograd.Function):
    """Causal depthwise convolution of (B, K - 1 + T, C) with (C, K): (B, T, C).

    It adds shifted products in place, which on a CPU is faster than a grouped convolution. The
    backward pass is by hand, because autograd makes a padded copy of the gradient for every shift.
    """

    @staticmethod
    def forward(ctx, inputs: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, taps)
        length = inputs.shape[1] - CONVOLUTION + 1
        y = inputs[:, :length] * taps[:, 0]
        for i in range(1, CONVOLUTION):
            y.addcmul_(inputs[:, i : i + length], taps[:, i])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        inputs, taps = ctx.saved_tensors
        length = grad.shape[1]
        grad_inputs = torch.zeros_like(inputs)
        grad_taps = torch.empty_like(taps)
        for i in range(CONVOLUTION):
            grad_inputs[:, i : i + length].addcmul_(grad, taps[:, i])
            grad_taps[:, i] = (grad * inputs[:, i : i + length]).sum((0, 1))
        return grad_inputs, grad_taps


def convolve(weights_CK: Tensor, x_BTC: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Convolve each channel by itself: y (B, T, C) and the next tail, the last K - 1 inputs.

    ``tail`` (B, K - 1, C) holds the inputs before these tokens.
    """
    inputs = torch.cat([tail.to(x_BTC.dtype), x_BTC], 1)
    y = _Convolution.apply(inputs, weights_CK.to(x_BTC.dtype))
    return y, inputs[:, x_BTC.shape[1] :]
