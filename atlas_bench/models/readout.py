"""Read a whole sequence from the hidden state at its last position.

For MAD's compression task (2403.17844): the blocks are the encoder, and all that is known of the
tokens is what the blocks kept in their state. The decoder has two layers; sinusoids tell it which
position to name.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LastReadout(nn.Module):
    """norm, linear, GELU, norm, linear, GELU on the last hidden state plus each position's code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); the result depends on ``x_BTD[:, -1]`` alone."""
        _, length, width = x_BTD.shape
        y = x_BTD[:, -1:] + positions(length, width).to(x_BTD)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y = F.gelu(layer(norm(y)))
        return y


def positions(length: int, width: int) -> Tensor:
    """(length, width) float32: sines, then cosines, of periods from 2 pi to 10,000 times that."""
    half = -(-width // 2)
    rates = 10_000.0 ** -(torch.arange(half) / max(1, half - 1))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width]
