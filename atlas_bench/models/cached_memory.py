"""Memory Caching (2602.24281) as a sequence mixer: any memory, read also where it stood before.

It differs from `NeuralMemory` in what a token reads, and in the connector u that decides it.

Legend: B batch, T tokens of this call, H memory heads, K key size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from atlas_bench.memory import Gates
from atlas_bench.memory.cached import Cache, cached_memory, empty_cache
from atlas_bench.models.neural_memory import NeuralMemory, NeuralMemoryState, check_segment
from atlas_bench.models.settings import ModelSettings, ScaleSettings


@dataclass(frozen=True)
class CachedMemoryState(NeuralMemoryState):
    """The convolution's last inputs, the memory, and the earlier segments; it grows with them."""

    cache: Cache | None = None


class CachedMemory(NeuralMemory):
    """A memory whose states at the ends of segments of ``model.segment`` tokens stay readable.

    `match_state` sizes the memory alone, without the cache.
    """

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        """Segments end where chunks end."""
        super().check(model, scale)
        check_segment(model)

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__(model, scale)
        self.segment = self.longest_chunk = model.segment
        self.connector = nn.Linear(scale.width, self.heads * self.key_dim, bias=False)

    def init_state(self, batch: int) -> CachedMemoryState:
        tail = super().init_state(batch).tail
        return CachedMemoryState(tail, None, empty_cache(batch, self.heads, self.key_dim, tail))

    def state_bytes(self, batch: int, length: int) -> int:
        """Those of the memory, which do not grow, and a memory and a key for every segment."""
        weights = sum(weight.numel() for weight in self.initial.values())
        key = self.heads * self.key_dim
        cached = (length // self.segment) * (weights + key) + key
        return super().state_bytes(batch, length) + 4 * batch * cached

    def forward(self, x: Tensor, state: CachedMemoryState) -> tuple[Tensor, CachedMemoryState]:
        tokens, gates, output_gate, tail = self.token_inputs(x, state.tail)
        u = self.connector(x).unflatten(-1, (self.heads, -1))
        parameters, past = self.parameters_of_memory, (state.memory, state.cache)
        y, memory, cache = cached_memory(
            self.spec, parameters, *tokens, Gates(**gates), u, self.segment, *past
        )
        return self.output(y, output_gate), CachedMemoryState(tail, memory, cache)
