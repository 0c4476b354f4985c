"""Learnability: which maps a small network learns online, one step a token (ATLAS section 6.4).

A memory that learns at test time is such a network, and the output of attention is what it would
have to learn. There are five targets, and every sequence has its own: a low-rank linear map, a
random network, causal attention followed by a network, the same network on what attention has read,
and attention over a sliding window followed by a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas_bench.artifacts.metrics import lower
from atlas_bench.config.bounds import bounded
from atlas_bench.tasks.learnability.online import OnlineSettings, OnlineTask
from atlas_bench.tasks.learnability.targets import TARGETS, sequence
from atlas_bench.tasks.task import Cell, MetricValue, summarize
from atlas_bench.tasks.windows import bucket_name, buckets
from atlas_bench.text.settings import TextSettings

FIRST_BUCKET = 64  # positions; every further range is as long as all before it
RELATIVE_LOSS = lower("relative_loss", "ratio")
MEAN_RELATIVE_LOSS = lower("mean_relative_loss", "ratio")
FINAL_RELATIVE_LOSS = lower("final_relative_loss", "ratio")


@dataclass
class LearnabilitySettings(OnlineSettings):
    """What a network learns online, and which network."""

    name: str = "learnability"
    target: str = bounded("low_rank", one_of=TARGETS)  # the map from inputs to outputs
    rank: int = bounded(8, at_least=1)  # rank of the low_rank map
    # Tokens that a query of window_attention_mlp sees, itself included.
    window: int = bounded(512, at_least=1)

    def check(self, text: TextSettings) -> None:
        super().check(text)
        if self.rank > self.dimension:
            raise ValueError(
                f"task.rank={self.rank} is more than task.dimension={self.dimension}; use at most "
                f"that"
            )

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> LearnabilityTask:
        return LearnabilityTask(self, text, seed=seed, question_every=question_every)

    def summary(self) -> str:
        return summarize(self.name, [self.target])


class LearnabilityTask(OnlineTask):
    """Random inputs, and random maps of them."""

    metrics = (RELATIVE_LOSS, MEAN_RELATIVE_LOSS, FINAL_RELATIVE_LOSS)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        settings = self.settings
        drawn = [
            sequence(
                settings.target,
                settings.length,
                settings.dimension,
                rank=settings.rank,
                window=settings.window,
                parts=(self.seed, settings.seed, number),
            )
            for number in range(settings.sequences)
        ]
        inputs, outputs = zip(*drawn, strict=True)
        return np.stack(inputs), np.stack(outputs)

    def cells(self) -> list[Cell]:
        """Positions 0-63, 64-127, 128-255, ..., and the whole sequence."""
        target, length = self.settings.target, self.settings.length
        ranges = buckets(length, FIRST_BUCKET)
        parts = [Cell(target, bucket_name(low, high), high) for low, high in ranges]
        return [*parts, Cell(target, str(length), length)]

    def judge(self, losses: np.ndarray) -> list[MetricValue]:
        """The mean loss in each range of positions, over all positions and over the last half."""
        *parts, whole = self.cells()
        samples, length = losses.shape
        ranges = buckets(length, FIRST_BUCKET)
        values = [
            MetricValue(cell, RELATIVE_LOSS, float(losses[:, low:high].mean()), samples)
            for cell, (low, high) in zip(parts, ranges, strict=True)
        ]
        for metric, scored in (
            (MEAN_RELATIVE_LOSS, losses),
            (FINAL_RELATIVE_LOSS, losses[:, length // 2 :]),
        ):
            values.append(MetricValue(whole, metric, float(scored.mean()), samples))
        return values

    def protocol(self) -> dict[str, Any]:
        """How inputs are drawn and losses computed; the subtask of a score names the target."""
        settings = self.settings
        return {
            "loss": "|M(i) - o|^2 / |o|^2 of every token, before the step on it",
            "inputs": "standard normal",
            "sequences": settings.sequences,
            "sequence_tokens": settings.length,
            "rank": settings.rank,
            "window_tokens": settings.window,
        }
