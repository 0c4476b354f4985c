"""The contract of a sequence mixer, and the registry of all mixers.

A mixer is the part of a layer that mixes positions: attention, a memory, a recurrence. A new one is
one file with a subclass of `Mixer` and one line in `MIXERS`.

Legend: B batch, T tokens of this call.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, nn

from atlas_bench.models.settings import ModelSettings, ScaleSettings

# Name in model.mixers -> module:class. A class is imported when a model asks for it.
MIXERS = {
    "attention": "atlas_bench.models.attention:Attention",
    "neural_memory": "atlas_bench.models.neural_memory:NeuralMemory",
    "lact": "atlas_bench.models.lact:LargeChunkMemory",
    "delta_ttt": "atlas_bench.models.delta_ttt:DeltaTTT",
    "memory_as_context": "atlas_bench.models.hybrids:MemoryAsContext",
    "memory_as_gate": "atlas_bench.models.hybrids:MemoryAsGate",
    "memory_as_layer": "atlas_bench.models.hybrids:MemoryAsLayer",
    "cached_memory": "atlas_bench.models.cached_memory:CachedMemory",
    "mamba": "atlas_bench.models.mamba:Mamba",
    "kda": "atlas_bench.models.library_mixers:KimiDeltaAttention",
    "mamba2": "atlas_bench.models.library_mixers:Mamba2",
    "mesa_net": "atlas_bench.models.library_mixers:MesaNet",
}


# What a mixer keeps of the past: a frozen dataclass whose tensors have the batch first.
MixerState = Any


class TrainingStage(Protocol):
    """What a mixer may read of a stage of the curriculum."""

    coarse: bool


class Mixer(nn.Module, ABC):
    """One mixer of one layer, built as ``cls(model, scale)``.

    ``out`` is the last linear map; the model scales its initial weights down with the depth.
    ``observed`` holds what `auxiliary_losses` and `metrics` need of the last forward: one tensor
    (B, T, ...) per name. Whoever calls a mixer on parts of a batch puts the parts together there.
    The model calls `initialise`, `enter_stage` and `auxiliary_losses` of mixers inside a mixer too.
    """

    out: nn.Linear
    observed: Mapping[str, Tensor] = MappingProxyType({})

    # settings ----------------------------------------------------------------------------------

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        """Raise ValueError in one sentence for settings that this mixer cannot be built with."""

    @classmethod
    def match_state(
        cls, model: ModelSettings, scale: ScaleSettings
    ) -> tuple[ModelSettings, ScaleSettings]:
        """Settings with which the state of one layer holds about width^2 numbers.

        Raises ValueError in one sentence if there are none.
        """
        raise ValueError(
            f"model.match=state cannot match {model.name}: its mixer {cls.__name__} cannot size "
            f"its state; use model.match=parameters"
        )

    @classmethod
    def unavailable_reason(cls, device: str) -> str | None:
        """Why the mixer cannot run on this machine with ``hardware.device=device``, or None.

        The text continues a sentence that starts with the model's name.
        """
        return None

    # the layer ---------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Set what differs from the usual start; called after all linear maps have theirs."""

    @abstractmethod
    def init_state(self, batch: int) -> MixerState:
        """The state before the first token."""

    @abstractmethod
    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the state after ``length`` tokens in float32, an upper bound."""

    @abstractmethod
    def forward(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """(B, T, width) and the past -> (B, T, width) and the past with these tokens.

        Causal, and the same function however a sequence is cut into calls. ``state`` is not
        changed.
        """

    # training ----------------------------------------------------------------------------------

    def enter_stage(self, stage: TrainingStage | None) -> None:
        """Called before each training step with its stage, and with None when training is over."""

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Scalars of the last forward that training adds to its loss, by the names of metrics."""
        return {}

    def metrics(self, state: MixerState | None) -> dict[str, Tensor]:
        """Scalars of the last forward for metrics.jsonl, without gradients.

        ``state`` is the state after it; None if the batch was read in parts that left several.
        """
        return {}


def mixer_class(name: str) -> type[Mixer]:
    """The class registered as ``name``."""
    return pkgutil.resolve_name(MIXERS[name])


def unavailable_reason(model: ModelSettings, device: str) -> str | None:
    """Why this machine cannot run the model's mixers with ``hardware.device=device``, or None."""
    reasons = (mixer_class(name).unavailable_reason(device) for name in model.mixers)
    return next(filter(None, reasons), None)
