"""Memory and attention in one layer (Titans section 4): as a context, as a gate, as a layer.

The parts share one output projection, and the memory inside has no output gate of its own, so that
a hybrid costs little more than the two. Persistent tokens (Titans section 3.3) are keys and values
of the attention.

Legend: B batch, T tokens of this call, H heads, E head size, S tokens of a segment, P persistent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory import MemoryState
from atlas_bench.models.attention import Attention, AttentionState, rotate
from atlas_bench.models.neural_memory import NeuralMemory, NeuralMemoryState
from atlas_bench.models.settings import ModelSettings, ScaleSettings


@dataclass(frozen=True)
class HybridState:
    """The states of both parts."""

    attention: AttentionState
    memory: NeuralMemoryState

    def detach(self) -> HybridState:
        return HybridState(self.attention.detach(), self.memory.detach())


class _Hybrid(nn.Module):
    """An attention and a memory without output projections, and one for both."""

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__()
        self.attention = Attention(model, scale, inner=True)
        self.memory = NeuralMemory(model, scale, inner=True)
        self.out = nn.Linear(scale.width, scale.width, bias=False)

    def init_state(self, batch: int) -> HybridState:
        return HybridState(self.attention.init_state(batch), self.memory.init_state(batch))

    def state_bytes(self, batch: int, length: int) -> int:
        return self.attention.state_bytes(batch, length) + self.memory.state_bytes(batch, length)


class MemoryAsGate(_Hybrid):
    """MAG (Titans Eq 26-28): y sigmoid(norm(M(x))), y the sliding-window attention of x.

    The paper normalises both and leaves the non-linearity open; here the memory's output, which is
    normalised already, gates through a sigmoid.
    """

    def forward(self, x: Tensor, state: HybridState) -> tuple[Tensor, HybridState, dict]:
        """(B, T, width) and the past -> (B, T, width), the past with these tokens, the gates."""
        attended, attention = self.attention(x, state.attention)
        read, memory, gates = self.memory(x, state.memory)
        return self.out(attended * torch.sigmoid(read)), HybridState(attention, memory), gates


class MemoryAsLayer(_Hybrid):
    """MAL (Titans Eq 29-31): sliding-window attention over what the memory gives."""

    def forward(self, x: Tensor, state: HybridState) -> tuple[Tensor, HybridState, dict]:
        """(B, T, width) and the past -> (B, T, width), the past with these tokens, the gates."""
        read, memory, gates = self.memory(x, state.memory)
        attended, attention = self.attention(read, state.attention)
        return self.out(attended), HybridState(attention, memory), gates


@dataclass(frozen=True)
class MemoryAsContextState:
    """The segment's keys and values so far, of the retrieved (first) and of its own tokens
    (B, H, C, E); the memory; its weights where the segment began, {} for the initial ones."""

    memory: NeuralMemoryState
    start: dict[str, Tensor]
    retrieved: tuple[Tensor, Tensor] | None = None
    own: tuple[Tensor, Tensor] | None = None

    def detach(self) -> MemoryAsContextState:
        def cut(pair: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
            return None if pair is None else (pair[0].detach(), pair[1].detach())

        start = {name: weight.detach() for name, weight in self.start.items()}
        return replace(
            self, memory=self.memory.detach(), start=start,
            retrieved=cut(self.retrieved), own=cut(self.own),
        )  # fmt: skip


class MemoryAsContext(_Hybrid):
    """MAC (Titans Eq 21-25), in segments of S tokens: retrieve, attend, write.

    h_t is read from the memory as it stood before the segment; token t attends to the persistent
    tokens, h_1..h_t and the segment up to itself, in this order; what it gets is written to the
    memory, and gated by what the memory then gives: y_t sigmoid(norm(M_t(y_t))).
    """

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__(model, scale)
        self.segment = model.segment
        self.memory.longest_chunk = model.segment
        self.query = nn.Linear(scale.width, self.memory.heads * self.memory.key_dim, bias=False)

    def init_state(self, batch: int) -> MemoryAsContextState:
        return MemoryAsContextState(self.memory.init_state(batch), {})

    def state_bytes(self, batch: int, length: int) -> int:
        """Two keys and values a token of a segment, and the memory with the segment's start."""
        cache = 2 * self.attention.state_bytes(batch, min(length, self.segment))
        return cache + self.memory.state_bytes(batch, length, copies=1)

    def forward(
        self, x: Tensor, state: MemoryAsContextState
    ) -> tuple[Tensor, MemoryAsContextState, dict]:
        """(B, T, width) and the past -> (B, T, width), the past with these tokens, the gates."""
        outputs, opened = [], []
        done, length = 0, x.shape[1]
        while done < length:
            position = 0 if state.memory.memory is None else state.memory.memory.position
            size = min(self.segment - position % self.segment, length - done)
            y, state, gates = self._part(x[:, done : done + size], state, position % self.segment)
            outputs.append(y)
            opened.append(gates)
            done += size
        gates = {name: torch.cat([gates[name] for gates in opened], 1) for name in opened[0]}
        return self.out(torch.cat(outputs, 1)), state, gates

    def _part(
        self, x: Tensor, state: MemoryAsContextState, place: int
    ) -> tuple[Tensor, MemoryAsContextState, dict]:
        """Tokens of one segment, the first of which is its ``place``-th."""
        if place == 0:
            memory = state.memory.memory
            start = {} if memory is None else dict(memory.weights)
            state = MemoryAsContextState(state.memory, start)
        attention, length = self.attention, x.shape[1]
        retrieved = self.memory.retrieve(self.query(x), state.start)
        _, h_k, h_v = attention.project(retrieved)
        q, k, v = attention.project(x)
        at = torch.arange(place, place + length, device=x.device)
        # The retrieved tokens stand before the segment, as if they were a segment of their own.
        q, k = (rotate(part, at + self.segment, attention.rope_base) for part in (q, k))
        h_k = rotate(h_k, at, attention.rope_base)
        if place:
            h_k, h_v = _append(state.retrieved, (h_k, h_v))
            k, v = _append(state.own, (k, v))
        seen = torch.arange(place + length, device=x.device) <= at[:, None]
        mask = torch.cat([seen.new_ones(length, attention.persistent_tokens), seen, seen], 1)
        p_k, p_v = attention.persistent_pair(x.shape[0], k.dtype)
        keys, values = torch.cat([p_k, h_k, k], 2), torch.cat([p_v, h_v, v], 2)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        y = y.transpose(1, 2).flatten(2)
        read, memory, gates = self.memory(y, state.memory)
        new = MemoryAsContextState(memory, state.start, (h_k, h_v), (k, v))
        return y * torch.sigmoid(read), new, gates


def _append(
    past: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    return torch.cat([past[0], new[0]], 2), torch.cat([past[1], new[1]], 2)


def memories_of(state: object) -> list[MemoryState]:
    """The memory in a layer's state, if it has one: a list of none or one."""
    inner = getattr(state, "memory", None)
    if isinstance(inner, NeuralMemoryState):
        inner = inner.memory
    return [inner] if isinstance(inner, MemoryState) else []
