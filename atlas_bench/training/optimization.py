"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math

import torch

from atlas_bench.training.settings import TrainingSettings


def build_optimizer(model: torch.nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW; matrices decay, but vectors, gains and the memory's initial state do not."""
    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.dim() == 2 and ".initial." not in name].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=tuple(settings.betas),
    )


def learning_rate(settings: TrainingSettings, step: int, share: float) -> float:
    """Linear warm-up, then a cosine over ``share``, the spent share of the token budget."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return (
        settings.learning_rate * warm * (settings.final_rate + (1 - settings.final_rate) * cosine)
    )
