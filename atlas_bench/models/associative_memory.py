"""The Associative Recurrent Memory Transformer (ARMT, 2407.04841): a memory of segments per layer.

At the end of a segment come M memory tokens. What a layer makes of them is written to the layer's
associative memory A with its normaliser z, and every token of the next segment, the memory tokens
too, adds what it reads there before it enters the layer:

    [X; M] of layer l + 1 = Block([X; M] + y)                                  (section 2)
    k, v = W_K m, W_V m;  b = sigmoid(W_b m);  A_0 = 0;  z_0 = 0               (Eq 1)
    v' = A phi(k) / z.phi(k);  g = 1 - z.phi(k) / |phi(k)|^2                   (Eq 2)
    A <- A + sum of b (v - v') phi(k)';  z <- z + sum of g phi(k)              (Eq 3)
    q = W_Q x;  y = A phi(q) / z.phi(q)                                        (Eq 4)

phi is DPFP-3 (2102.11174). The paper is silent on the rest, which is that of the authors' code:
phi(k) is divided by its norm, g is held in 0..1 and has no gradient (appendix F.1 considers this),
and the memory tokens enter each segment as they are learnt.

Legend: B batch, T tokens, M memory tokens, K features of a key, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory.spec import state_dtype
from atlas_bench.models.language_model import Block
from atlas_bench.models.recurrent_memory import RecurrentMemoryTransformer, SegmentState
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.models.state import ModelState

SHIFTS = 3  # of DPFP-3
SMALLEST = 1e-5  # added to a denominator; an empty memory reads 0


def dpfp(x: Tensor) -> Tensor:
    """DPFP-3 of norm 1: (..., E) -> (..., 6 E) (2102.11174 Eq 37): r_i r_(i+j) for j = 1, 2, 3.

    r = relu([x, -x]), and indices go round.
    """
    r = torch.cat([x, -x], -1).relu()
    return F.normalize(torch.cat([r * r.roll(j, -1) for j in range(1, SHIFTS + 1)], -1), dim=-1)


@dataclass(frozen=True)
class AssociationState:
    """A (B, K, W) and z (B, K), float32 or float64."""

    values_BKW: Tensor
    keys_BK: Tensor


class Association(nn.Module):
    """The maps of one layer's associative memory."""

    def __init__(self, width: int, key_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, key_dim, bias=False)
        self.key = nn.Linear(width, key_dim, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.rate = nn.Linear(width, 1)
        self.features = 2 * SHIFTS * key_dim

    def init_state(self, batch: int) -> AssociationState:
        weight, size = self.value.weight, (batch, self.features, self.value.out_features)
        values = weight.new_zeros(size, dtype=state_dtype(weight.dtype))
        return AssociationState(values, values.new_zeros(size[:2]))

    def read(self, x_BTW: Tensor, state: AssociationState) -> Tensor:
        """What every token reads, (B, T, W) (Eq 4)."""
        return self._recall(self._features(self.query(x_BTW), state), state)[0]

    def write(self, m_BMW: Tensor, state: AssociationState) -> AssociationState:
        """The memory with memory tokens in it (Eq 1-3)."""
        phi_BMK = self._features(self.key(m_BMW), state)
        old_BMW, weight_BM1 = self._recall(phi_BMK, state)
        new_BMW = self.rate(m_BMW).sigmoid() * (self.value(m_BMW) - old_BMW)
        missing_BM1 = (1 - weight_BM1).clamp(0, 1).detach()
        return AssociationState(
            state.values_BKW + phi_BMK.mT @ new_BMW.to(phi_BMK.dtype),
            state.keys_BK + (missing_BM1 * phi_BMK).sum(1),
        )

    def _features(self, x: Tensor, state: AssociationState) -> Tensor:
        return dpfp(x.to(state.keys_BK.dtype))

    def _recall(self, phi_BTK: Tensor, state: AssociationState) -> tuple[Tensor, Tensor]:
        """A phi / z.phi (B, T, W), and z.phi + SMALLEST (B, T, 1)."""
        weight_BT1 = (phi_BTK * state.keys_BK[:, None]).sum(-1, keepdim=True) + SMALLEST
        return phi_BTK @ state.values_BKW / weight_BT1, weight_BT1


class AssociativeBlock(Block):
    """A block with an associative memory, which the model reads before it and writes after it."""

    def __init__(
        self, mixer: str, model: ModelSettings, scale: ScaleSettings, ffn_hidden: int
    ) -> None:
        super().__init__(mixer, model, scale, ffn_hidden)
        self.association = Association(scale.width, model.recurrence.key_dim)

    def initialise(self, layers: int) -> None:
        """What is read is a residual branch too, and starts as small."""
        super().initialise(layers)
        with torch.no_grad():
            self.association.value.weight.mul_((2 * layers) ** -0.5)
            self.association.rate.bias.zero_()


class AssociativeRecurrentMemoryTransformer(RecurrentMemoryTransformer):
    """ARMT. ``memory`` of its `SegmentState` is an `AssociationState` per layer."""

    block_class = AssociativeBlock

    def init_state(self, batch: int) -> ModelState:
        memory = tuple(block.association.init_state(batch) for block in self.blocks)
        return self._segment_start(batch, memory)

    def state_bytes(self, batch: int, length: int) -> int:
        """The most bytes up to ``length`` tokens, in float32: before a segment's last token."""
        kept = min(length, self.segment - 1)
        width, features = self.memory_tokens.shape[1], (b.association.features for b in self.blocks)
        memory = sum(size * (width + 1) for size in features)
        return sum(m.state_bytes(batch, kept) for m in self.mixers) + 4 * batch * memory

    def _part(self, x: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Tokens of one segment, with the memory tokens behind them where they end it."""
        *layers, segment = state
        length, memory = x.shape[1], list(segment.memory)
        position = segment.position + length
        if position == self.segment:
            x = torch.cat([x, self.memory_tokens.expand(len(x), -1, -1)], 1)
        for i, block in enumerate(self.blocks):
            x = x + block.association.read(x, memory[i]).to(x.dtype)
            x, layers[i] = block(x, layers[i])
            if position == self.segment:
                memory[i] = block.association.write(x[:, length:], memory[i])
        if position == self.segment:
            return x[:, :length], self._segment_start(len(x), tuple(memory))
        return x, (*layers, SegmentState(position, tuple(memory)))
