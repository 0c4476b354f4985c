"""The stages of a training curriculum. A task names its stage class and its default stages."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_bench.config.bounds import bounded
from atlas_bench.tasks.lengths import LONGEST_TOKENS

SHORTEST_TOKENS = 64


@dataclass(kw_only=True)
class Stage:
    """One stage. Training leaves it when the answers are right, or after a share of the budget.

    ``coarse`` and ``penalty_scale`` mean something only to models with memories.
    """

    coarse: bool = False  # gradients at chunks model.coarse_factor times the memory's
    # Share of training.change_penalty; 0 for a model that did not pass the stage before.
    penalty_scale: float = bounded(1.0, at_least=0)
    # Share of training.tokens; null: training.curriculum.longest.
    longest: float | None = bounded(None, above=0)

    def sequences(self, batch_tokens: int) -> int:
        """How many sequences have ``batch_tokens`` tokens; 0 where the stage has no length, so
        that training.min_sequences decides."""
        return 0

    def facts(self) -> dict[str, float]:
        """What the metrics of every training step say about the stage."""
        return {}


@dataclass(kw_only=True)
class LengthStage(Stage):
    """A stage whose sequences have one length."""

    # Tokens of a sequence.
    length: int = bounded(SHORTEST_TOKENS, at_least=SHORTEST_TOKENS, at_most=LONGEST_TOKENS)

    def sequences(self, batch_tokens: int) -> int:
        return batch_tokens // self.length


@dataclass(kw_only=True)
class NoiseStage(LengthStage):
    """A stage whose sequences are partly noise."""

    noise: float = bounded(0.0, at_least=0, below=1)  # share of the tokens

    def facts(self) -> dict[str, float]:
        return {"noise_share": self.noise}
