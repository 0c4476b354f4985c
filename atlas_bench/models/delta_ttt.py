"""DeltaTTT (2610.08553) as a sequence mixer: two delta rules in series.

It differs from `NeuralMemory` in the memory alone, and in that each layer has a write gate and a
learnt step of its own.

Legend: B batch, T tokens of this call, H memory heads, K key size, V value size.
"""

from __future__ import annotations

from torch import Tensor

from atlas_bench.memory import Gates, MemoryParameters, MemorySpec
from atlas_bench.memory.series import init_series, series_memory
from atlas_bench.models.neural_memory import NeuralMemory, NeuralMemoryState
from atlas_bench.models.settings import ModelSettings, ScaleSettings


class DeltaTTT(NeuralMemory):
    """A memory of two layers, each with a delta rule; ``rate`` holds two gates a head."""

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        """Both layers are delta rules with a closed form."""
        super().check(model, scale)
        if not model.memory.spec().is_delta_rule or model.memory.rate_inside:
            raise ValueError(
                "model.mixers=[delta_ttt] is two delta rules: it needs in model.memory "
                "network=matrix, objective=l2, optimizer=gd, window=1, chunk=1, rate_inside=false "
                "and a retain other than channel"
            )

    @staticmethod
    def initial_memory(spec: MemorySpec, **sizes: int) -> MemoryParameters:
        return init_series(spec, **sizes)

    def _gate_sizes(self) -> dict[str, int]:
        sizes = super()._gate_sizes()
        return sizes | {"rate": 2} if self.write_gate else sizes

    def forward(self, x: Tensor, state: NeuralMemoryState) -> tuple[Tensor, NeuralMemoryState]:
        tokens, gates, output_gate, tail = self.token_inputs(x, state.tail)
        rates = gates.pop("rate").chunk(2, -1) if self.write_gate else (None, None)
        both = tuple(Gates(rate=rate, **gates) for rate in rates)
        parameters = self.parameters_of_memory
        y, memory = series_memory(self.spec, parameters, *tokens, both, state.memory)
        return self.output(y, output_gate), NeuralMemoryState(tail, memory)
