"""Memory and attention in one layer (Titans section 4): as a context, as a gate, as a layer.

The two parts share one output projection, and the memory has no output gate of its own, so a hybrid
costs little more than its parts. Persistent tokens (Titans section 3.3) are keys and values of the
attention.

Legend: B batch, T tokens of this call, H heads, E head size, S tokens of a segment, C tokens of the
segment so far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory.chunkwise.held import hold_gradient
from atlas_bench.models.attention import Attention, AttentionState, attend_where, rotate
from atlas_bench.models.convolution import CONVOLUTION, convolve
from atlas_bench.models.mixer import Mixer
from atlas_bench.models.neural_memory import NeuralMemory, NeuralMemoryState, check_segment
from atlas_bench.models.settings import ModelSettings, ScaleSettings


@dataclass(frozen=True)
class HybridState:
    """The states of both parts."""

    attention: AttentionState
    memory: NeuralMemoryState


class _Hybrid(Mixer):
    """An attention and a memory without output projections, and one projection for both."""

    check = Attention.check
    match_state = NeuralMemory.match_state  # the attention's window stays as it is

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__()
        self.attention = Attention(model, scale, inner=True)
        self.memory = NeuralMemory(model, scale, inner=True)
        self.out = nn.Linear(scale.width, scale.width, bias=False)

    def init_state(self, batch: int) -> HybridState:
        return HybridState(self.attention.init_state(batch), self.memory.init_state(batch))

    def state_bytes(self, batch: int, length: int) -> int:
        return self.attention.state_bytes(batch, length) + self.memory.state_bytes(batch, length)

    def metrics(self, state: HybridState | MemoryAsContextState | None) -> dict[str, Tensor]:
        return self.memory.metrics(None if state is None else state.memory)


class MemoryAsGate(_Hybrid):
    """MAG (Titans Eq 26-28): norm(y) sigmoid(norm(M(x))), y the sliding-window attention of x.

    The paper leaves the non-linearity open. The memory normalises its output itself, per head with
    a learnt gain; with ``model.attention.norm`` attention has the same.
    """

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__(model, scale)
        shape = (scale.heads, scale.width // scale.heads)
        self.norm = nn.Parameter(torch.ones(shape)) if model.attention.norm else None

    def forward(self, x: Tensor, state: HybridState) -> tuple[Tensor, HybridState]:
        attended, attention = self.attention(x, state.attention)
        if self.norm is not None:
            attended = attended.unflatten(-1, self.norm.shape)
            attended = F.rms_norm(attended, self.norm.shape[1:], eps=1e-6) * self.norm
            attended = attended.flatten(2)
        read, memory = self.memory(x, state.memory)
        return self.out(attended * torch.sigmoid(read)), HybridState(attention, memory)


class MemoryAsLayer(_Hybrid):
    """MAL (Titans Eq 29-31): sliding-window attention over the memory's output."""

    def forward(self, x: Tensor, state: HybridState) -> tuple[Tensor, HybridState]:
        read, memory = self.memory(x, state.memory)
        attended, attention = self.attention(read, state.attention)
        return self.out(attended), HybridState(attention, memory)


@dataclass(frozen=True)
class MemoryAsContextState:
    """The memory, and the segment so far.

    ``segment_start_weights`` are the memory's weights where the segment began, {} for the initial
    ones. ``query_tail``: the last inputs (B, CONVOLUTION - 1, H K) of the queries' convolution, if
    they have one. ``cache``: keys and values of the retrieved tokens, then of the segment's own,
    each (B, H, C, E); empty before a segment.
    """

    memory: NeuralMemoryState
    segment_start_weights: dict[str, Tensor]
    query_tail: Tensor | None = None
    cache: tuple[Tensor, ...] = ()


class MemoryAsContext(_Hybrid):
    """MAC (Titans Eq 21-25), in segments of S tokens: retrieve, attend, write.

    h_t is read from the memory as it was before the segment. Token t attends to the persistent
    tokens, h_1..h_t and the segment up to itself, in this order. The result is written to the
    memory and gated by what the memory then gives: y_t sigmoid(norm(M_t(y_t))).
    """

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        """Segments end where chunks end, and attention has no convolution."""
        super().check(model, scale)
        check_segment(model)
        if model.attention.convolution:
            raise ValueError(
                "model.attention.convolution=true is not for memory_as_context, whose attention "
                "begins anew in every segment; leave it false"
            )

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        attention = replace(model.attention, convolution=False)
        super().__init__(replace(model, attention=attention), scale)
        self.segment = model.segment
        self.memory.longest_chunk = model.segment
        keys = self.memory.heads * self.memory.key_dim
        self.query, self.query_convolution = nn.Linear(scale.width, keys, bias=False), None
        if model.query_convolution:
            self.query_convolution = nn.Parameter(torch.full((keys, CONVOLUTION), 0.5))

    def initialise(self) -> None:
        """Queries start as the memory's keys, which needs the convolution of these."""
        if self.query_convolution is not None:
            with torch.no_grad():
                _, keys, *_ = self.memory.projections.weight.split(self.memory.splits)
                self.query.weight.copy_(keys)

    def init_state(self, batch: int) -> MemoryAsContextState:
        tail = None
        if self.query_convolution is not None:
            tail = self.query.weight.new_zeros(batch, CONVOLUTION - 1, len(self.query.weight))
        return MemoryAsContextState(self.memory.init_state(batch), {}, tail)

    def state_bytes(self, batch: int, length: int) -> int:
        """Two keys and values per token of a segment, the memory, and its weights at the start."""
        cache = 2 * self.attention.state_bytes(batch, min(length, self.segment))
        if self.query_convolution is not None:
            cache += 4 * batch * (CONVOLUTION - 1) * len(self.query.weight)
        return cache + self.memory.state_bytes(batch, length, copies=1)

    def forward(
        self, x: Tensor, state: MemoryAsContextState
    ) -> tuple[Tensor, MemoryAsContextState]:
        outputs, gates = [], []
        place = 0 if state.memory.memory is None else state.memory.memory.position % self.segment
        ends = range(self.segment - place, x.shape[1], self.segment)
        for part in x.tensor_split(list(ends), 1):
            y, state = self._part(part, state, place)
            outputs.append(y)
            gates.append(self.memory.observed)
            place = 0
        whole = {name: torch.cat([part[name] for part in gates], 1) for name in gates[0]}
        self.memory.observed = whole
        return self.out(torch.cat(outputs, 1)), state

    def _part(
        self, x: Tensor, state: MemoryAsContextState, place: int
    ) -> tuple[Tensor, MemoryAsContextState]:
        """Tokens of one segment; the first of them is its token number ``place``."""
        if place == 0:
            memory, weights = state.memory.memory, {}
            if memory is not None:
                # Here, because what is retrieved goes around the chunks and their held gradients.
                weights = {name: hold_gradient(w) for name, w in memory.weights.items()}
                memory = replace(memory, weights=weights)
            started = replace(state.memory, memory=memory)
            state = replace(state, memory=started, segment_start_weights=weights, cache=())
        attention, length = self.attention, x.shape[1]
        queries, tail = self.query(x), None
        if self.query_convolution is not None:
            queries, tail = convolve(self.query_convolution, queries, state.query_tail)
        retrieved = self.memory.retrieve(queries, state.segment_start_weights)
        _, h_k, h_v = attention.heads_of(attention.qkv(retrieved))
        q, k, v = attention.heads_of(attention.qkv(x))
        at = torch.arange(place, place + length, device=x.device)
        # The retrieved tokens stand before the segment, as if they were a segment of their own.
        q, k = (rotate(part, at + self.segment, attention.rope_base) for part in (q, k))
        h_k = rotate(h_k, at, attention.rope_base)
        cache = (h_k, h_v, k, v)
        if place:
            cache = tuple(torch.cat(pair, 2) for pair in zip(state.cache, cache, strict=True))
        seen = torch.arange(place + length, device=x.device) <= at[:, None]
        keys, values = torch.cat(cache[::2], 2), torch.cat(cache[1::2], 2)
        always = attention.persistent_pair(x.shape[0], k.dtype)
        y = attend_where(torch.cat([seen, seen], 1), q, keys, values, always)
        y = y.transpose(1, 2).flatten(2)
        read, memory = self.memory(y, state.memory)
        state = replace(state, memory=memory, query_tail=tail, cache=cache)
        return y * torch.sigmoid(read), state
