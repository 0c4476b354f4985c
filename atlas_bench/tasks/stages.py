"""The stages of a training curriculum. A task names its stage class and its default stages."""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST_TOKENS = 64


@dataclass(kw_only=True)
class Stage:
    """One stage. Training leaves it when the answers are right, or after a share of the budget.

    ``coarse`` and ``penalty_scale`` mean something only to models with memories.
    """

    coarse: bool = False  # gradients at chunks model.coarse_factor times the memory's
    # Share of training.change_penalty; 0 for a model that did not pass the stage before.
    penalty_scale: float = 1.0
    longest: float | None = None  # share of training.tokens; null: training.curriculum.longest

    def sequences(self, batch_tokens: int) -> int:
        """How many sequences have ``batch_tokens`` tokens; 0 where the stage has no length, so
        that training.min_sequences decides."""
        return 0

    def facts(self) -> dict[str, float]:
        """What the metrics of every training step say about the stage."""
        return {}

    def check(self, key: str) -> None:
        """Raise ValueError in one sentence that starts with ``key`` for a value out of range."""
        if self.penalty_scale < 0:
            raise ValueError(f"{key}.penalty_scale={self.penalty_scale} must not be negative")
        if self.longest is not None and self.longest <= 0:
            raise ValueError(f"{key}.longest={self.longest} must be above 0, or null")


@dataclass(kw_only=True)
class LengthStage(Stage):
    """A stage whose sequences have one length."""

    length: int = SHORTEST_TOKENS  # tokens

    def sequences(self, batch_tokens: int) -> int:
        return batch_tokens // self.length

    def check(self, key: str) -> None:
        super().check(key)
        if self.length < SHORTEST_TOKENS:
            raise ValueError(f"{key}.length={self.length} must be {SHORTEST_TOKENS} tokens or more")


@dataclass(kw_only=True)
class NoiseStage(LengthStage):
    """A stage whose sequences are partly noise."""

    noise: float = 0.0  # share of the tokens

    def facts(self) -> dict[str, float]:
        return {"noise_share": self.noise}

    def check(self, key: str) -> None:
        super().check(key)
        if not 0 <= self.noise < 1:
            raise ValueError(f"{key}.noise={self.noise} must be at least 0 and below 1")
