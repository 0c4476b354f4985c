"""Learnability: which maps a small network learns online, one step a token (ATLAS section 6.4).

A memory that learns at test time is such a network, and what attention writes is what it would have
to learn. Five targets, of every sequence another: a low-rank linear map, a random network, causal
attention and a network behind it, the same network fed with what attention has read, and attention
over a sliding window with a network behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas_bench.naming import check_choice
from atlas_bench.tasks.language_modelling import bucket_name, buckets
from atlas_bench.tasks.learnability.online import OnlineSettings, check_online
from atlas_bench.tasks.learnability.targets import TARGETS, sequence
from atlas_bench.tasks.task import Cell, Measured, check_counts
from atlas_bench.text.settings import TextSettings

FIRST_BUCKET = 64  # positions; every further bucket is as long as all before it


@dataclass
class LearnabilitySettings(OnlineSettings):
    """What a network learns online, and which network."""

    name: str = "learnability"
    target: str = "low_rank"  # the map of inputs to outputs
    rank: int = 8  # of the map of low_rank
    window: int = 512  # tokens that a query of window_attention_mlp sees, itself included


def check_learnability(task: LearnabilitySettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for what cannot be learnt."""
    check_choice("task.target", task.target, TARGETS)
    check_online(task)
    check_counts(task, "rank", "window")
    if task.rank > task.dimension:
        raise ValueError(
            f"task.rank={task.rank} is more than task.dimension={task.dimension}; use at most that"
        )


class LearnabilityTask:
    """An `OnlineTask`: see `atlas_bench.tasks.learnability.online`."""

    tokenizer = None  # its tokens are vectors
    vocab_size = 0

    def __init__(
        self,
        settings: LearnabilitySettings,
        text: TextSettings,
        *,
        seed: int,
        question_every: int,
    ) -> None:
        """``text`` and ``question_every`` are for other tasks."""
        self.settings, self.seed = settings, seed

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and outputs of every sequence, (S, T, D) float32."""
        settings = self.settings
        found = [
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
        inputs, outputs = zip(*found, strict=True)
        return np.stack(inputs), np.stack(outputs)

    def judge(self, losses: np.ndarray) -> list[Measured]:
        """The mean loss at positions 0-63, 64-127, 128-255, ..., over all, over the last half."""
        settings, samples = self.settings, len(losses)
        target, length = settings.target, settings.length
        found = []
        for low, high in buckets(length, FIRST_BUCKET):
            cell = Cell(target, bucket_name(low, high), high)
            value = float(losses[:, low:high].mean())
            found.append(Measured(cell, "relative_loss", value, samples))
        whole = Cell(target, str(length), length)
        for metric, part in (
            ("mean_relative_loss", losses),
            ("final_relative_loss", losses[:, length // 2 :]),
        ):
            found.append(Measured(whole, metric, float(part.mean()), samples))
        return found

    def protocol(self) -> dict[str, Any]:
        """For the record. What the target is, the scores' subtask says."""
        settings = self.settings
        return {
            "loss": "|M(i) - o|^2 / |o|^2 of every token, before the step on it",
            "inputs": "standard normal",
            "sequences": settings.sequences,
            "sequence_tokens": settings.length,
            "rank": settings.rank,
            "window_tokens": settings.window,
        }
