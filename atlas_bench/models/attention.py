"""Softmax attention as a sequence mixer: full or sliding window, with its key-value cache.

Legend: B batch, T tokens of this call, C cached tokens, S = C + T, H heads, E head size, W window,
P persistent tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.models.convolution import CONVOLUTION, convolve
from atlas_bench.models.mixer import Mixer
from atlas_bench.models.settings import ModelSettings, ScaleSettings


@dataclass(frozen=True)
class AttentionState:
    """Keys and values of the past, (B, H, C, E), the number of tokens read so far and, with a
    convolution, its last inputs (B, CONVOLUTION - 1, 3 width)."""

    keys: Tensor | None = None
    values: Tensor | None = None
    position: int = 0
    tail: Tensor | None = None


class Attention(Mixer):
    """Causal multi-head attention with RoPE (2104.09864).

    ``inner`` is for hybrids, which project the output themselves. Persistent tokens (Titans
    section 3.3) are learnt keys and values without a position that every query sees.
    """

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        """Rotary positions rotate pairs, so heads must have an even size."""
        if (scale.width // scale.heads) % 2:
            raise ValueError(
                f"scale.heads={scale.heads} gives heads of odd size {scale.width // scale.heads}, "
                f"which rotary positions cannot rotate in pairs; use fewer or more heads"
            )

    @classmethod
    def match_state(
        cls, model: ModelSettings, scale: ScaleSettings
    ) -> tuple[ModelSettings, ScaleSettings]:
        """A window whose keys and values are width^2 numbers.

        Attention beside other mixers stays as it is: there the memories are matched.
        """
        if len(set(model.mixers)) > 1:
            return model, scale
        if model.attention.window is None:
            raise ValueError(
                f"model.match=state cannot match {model.name}, whose state grows with the length; "
                f"use model=sliding_window_transformer"
            )
        attention = replace(model.attention, window=max(2, scale.width // 2 + 1))
        return replace(model, attention=attention), scale

    def __init__(self, model: ModelSettings, scale: ScaleSettings, *, inner: bool = False) -> None:
        super().__init__()
        self.heads, self.window = scale.heads, model.attention.window
        self.head_dim = scale.width // scale.heads
        self.rope_base = model.attention.rope_base
        self.qkv = nn.Linear(scale.width, 3 * scale.width, bias=False)
        self.convolution, convolved = None, model.attention.convolution
        if scale.attention_convolution if convolved is None else convolved:
            # It starts as a plain sum, as a memory's does.
            self.convolution = nn.Parameter(torch.full((3 * scale.width, CONVOLUTION), 0.5))
        self.out = None if inner else nn.Linear(scale.width, scale.width, bias=False)
        self.persistent = None
        if model.attention.persistent_tokens:
            shape = (2, self.heads, model.attention.persistent_tokens, self.head_dim)
            self.persistent = nn.Parameter(torch.randn(shape) * self.head_dim**-0.5)

    def init_state(self, batch: int) -> AttentionState:
        if self.convolution is None:
            return AttentionState()
        tail = self.qkv.weight.new_zeros(batch, CONVOLUTION - 1, self.convolution.shape[0])
        return AttentionState(tail=tail)

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the cache after ``length`` tokens in float32."""
        kept = length if self.window is None else min(length, self.window - 1)
        cache = 2 * batch * self.heads * kept * self.head_dim * 4
        if self.convolution is None:
            return cache
        return cache + 4 * batch * (CONVOLUTION - 1) * self.convolution.shape[0]

    def forward(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        return self.attended(self.qkv(x), state)

    def attended(self, projected: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """`forward` from queries, keys and values, (B, T, 3 width)."""
        (batch, length, _), tail = projected.shape, None
        if self.convolution is not None:
            projected, tail = convolve(self.convolution, projected, state.tail)
        q, k, v = self.heads_of(projected)
        positions = torch.arange(state.position, state.position + length, device=q.device)
        q, k = rotate(q, positions, self.rope_base), rotate(k, positions, self.rope_base)
        if state.keys is not None:
            k = torch.cat([state.keys, k], 2)
            v = torch.cat([state.values, v], 2)
        y = attend(q, k, v, self.window, self.persistent_pair(batch, k.dtype))
        if self.window is not None:
            kept = min(self.window - 1, k.shape[2])
            k, v = k[:, :, k.shape[2] - kept :], v[:, :, v.shape[2] - kept :]
        y = y.transpose(1, 2).reshape(batch, length, -1)
        y = y if self.out is None else self.out(y)
        return y, AttentionState(k, v, state.position + length, tail)

    def heads_of(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 3 width) -> q, k, v, each (B, H, T, E)."""
        parts = projected.unflatten(-1, (3, self.heads, self.head_dim))
        return tuple(parts.permute(2, 0, 3, 1, 4).unbind(0))

    def persistent_pair(self, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the persistent tokens, (B, H, P, E), if there are any."""
        if self.persistent is None:
            return None
        keys, values = self.persistent.to(dtype).unsqueeze(1).expand(-1, batch, -1, -1, -1)
        return keys, values


def rotate(x_BHTE: Tensor, positions: Tensor, base: float) -> Tensor:
    """RoPE: turn each pair (x_i, x_{i + E/2}) by position * base^(-2i/E).

    Angles are float32, or float64 where ``x_BHTE`` is.
    """
    half = x_BHTE.shape[-1] // 2
    wide = torch.promote_types(x_BHTE.dtype, torch.float32)
    frequencies = base ** (-torch.arange(half, device=x_BHTE.device, dtype=wide) / half)
    angles = positions[:, None].to(wide) * frequencies
    cos, sin = angles.cos().to(x_BHTE.dtype), angles.sin().to(x_BHTE.dtype)
    first, second = x_BHTE.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def attend(
    q_BHTE: Tensor,
    k_BHSE: Tensor,
    v_BHSE: Tensor,
    window: int | None,
    always: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Causal attention; the last query stands at the last key.

    ``always``: keys and values (B, H, P, E) that every query sees, besides the window.
    """
    length, total = q_BHTE.shape[2], k_BHSE.shape[2]
    if window is not None and total > 2 * window and length > 1:
        return _attend_in_blocks(q_BHTE, k_BHSE, v_BHSE, window, always)
    if always is None and length == total and (window is None or length <= window):
        return F.scaled_dot_product_attention(q_BHTE, k_BHSE, v_BHSE, is_causal=True)
    at = torch.arange(total - length, total, device=q_BHTE.device)[:, None]
    key = torch.arange(total, device=q_BHTE.device)
    mask = key <= at
    if window is not None:
        mask = mask & (key > at - window)
    return attend_where(mask, q_BHTE, k_BHSE, v_BHSE, always)


def attend_where(
    mask: Tensor, q: Tensor, k: Tensor, v: Tensor, always: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attention to ``k`` where ``mask``, bool (..., T, S), is True, and to ``always``."""
    if always is not None:
        k, v = (torch.cat(pair, -2) for pair in zip(always, (k, v), strict=True))
        mask = F.pad(mask, (always[0].shape[-2], 0), value=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attend_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, window: int, always: tuple[Tensor, Tensor] | None
) -> Tensor:
    """A sliding window at cost T x W: a block of W queries sees its own keys and the W before."""
    length, cached = q.shape[2], k.shape[2] - q.shape[2]
    blocks = -(-length // window)
    tail = blocks * window - length
    front = window - cached
    q = F.pad(q, (0, 0, 0, tail)).unflatten(2, (blocks, window))
    # Cached keys fill the block before the first; (B, H, S, E) -> (B, H, blocks, 2 W, E).
    k, v = (
        F.pad(x, (0, 0, front, tail)).unfold(2, 2 * window, window).transpose(-1, -2)
        for x in (k, v)
    )
    at = torch.arange(window, device=q.device)[:, None] + window
    key = torch.arange(2 * window, device=q.device)
    mask = (key <= at) & (key > at - window)
    first = torch.arange(blocks, device=q.device)[:, None, None] == 0
    mask = mask & ~(first & (key < front))
    if always is not None:
        always = tuple(x.unsqueeze(2).expand(-1, -1, blocks, -1, -1) for x in always)
    return attend_where(mask, q, k, v, always).flatten(2, 3)[:, :, :length]
