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


def clip_gradients(model: torch.nn.Module, largest: float) -> float:
    """Scale the gradients down to a norm of at most ``largest``; returns their norm before.

    Where squares of finite gradients overflow in float32, the norm is taken in float64.
    """
    parameters = [each for each in model.parameters() if each.grad is not None]
    gradients = [each.grad for each in parameters]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        norms = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms))
    if torch.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return float(norm)


def learning_rate(settings: TrainingSettings, step: int, share: float) -> float:
    """Linear warm-up, then a cosine over ``share``, the spent share of the token budget."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return (
        settings.learning_rate * warm * (settings.final_rate + (1 - settings.final_rate) * cosine)
    )
