"""The Recurrent Memory Transformer (RMT, 2207.06881): memory tokens carry the past.

The Transformer reads one segment at a time, between two copies of the memory tokens:

    H~ = [H_mem; H_tokens; H_mem]              (section 3.2)
    [H_read; H'_tokens; H_write] = Transformer(H~)
    H_mem of the next segment = H_write

Tokens see the first copy and the tokens before them in the segment. The last copy sees the whole
segment, so it is read when the segment is complete, and it is all that is kept of the segment.
Training goes back through every segment of the sequence.

Legend: B batch, T tokens of this call, M memory tokens, S tokens of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.models.state import ModelState


@dataclass(frozen=True)
class SegmentState:
    """The number of tokens of the segment that were read, and what the segments before it left:
    the memory tokens (B, M, width) of RMT."""

    position: int
    memory: Any


class RecurrentMemoryTransformer(LanguageModel):
    """RMT. The layers' states are those of the segment so far; a `SegmentState` follows them.

    ``memory_tokens`` (M, width) are the memory of the first segment. H_write is normalised by the
    model's last norm, as in the authors' code, where it is GPT-2's last hidden state. So the memory
    has one size after any number of segments.
    """

    def __init__(self, model: ModelSettings, scale: ScaleSettings, **options: Any) -> None:
        super().__init__(model, scale, **options)
        self.segment = model.segment
        shape = model.recurrence.memory_tokens, scale.width
        self.memory_tokens = nn.Parameter(torch.randn(shape) * scale.width**-0.5)

    def init_state(self, batch: int) -> ModelState:
        return self._segment_start(batch, self.memory_tokens.expand(batch, -1, -1))

    def _segment_start(self, batch: int, memory: Any) -> ModelState:
        """The state before the first token of a segment."""
        return (*super().init_state(batch), SegmentState(0, memory))

    def state_bytes(self, batch: int, length: int) -> int:
        """The most bytes up to ``length`` tokens, in float32: before a segment's last token."""
        kept = len(self.memory_tokens) + min(length, self.segment - 1)
        return super().state_bytes(batch, kept) + 4 * batch * self.memory_tokens.numel()

    def metrics(self, state: ModelState | None) -> dict[str, Tensor]:
        """Those of the layers."""
        return super().metrics(None)

    def read_blocks(self, x: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """x (B, T, width) and the past -> (B, T, width) and the past with it."""
        outputs = []
        ends = range(self.segment - state[-1].position, x.shape[1], self.segment)
        for part in x.tensor_split(list(ends), 1):
            y, state = self._part(part, state)
            outputs.append(y)
        return torch.cat(outputs, 1), state

    def _part(self, x: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Tokens of one segment, between the memory tokens where they begin it and end it."""
        *layers, segment = state
        memory, position = segment.memory, segment.position + x.shape[1]
        read = memory[:, : 0 if segment.position else None]
        write = memory[:, : None if position == self.segment else 0]
        y, layers = super().read_blocks(torch.cat([read, x, write], 1), tuple(layers))
        _, tokens, written = y.split([read.shape[1], x.shape[1], write.shape[1]], 1)
        if position == self.segment:
            return tokens, self._segment_start(len(x), self.norm(written))
        return tokens, (*layers, SegmentState(position, memory))
