"""Every preset on a difficult sequence: keys that repeat for 2,048 tokens, and rates near 1."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from presets import ANYWHERE, memories_of
from torch.nn import functional as F

from atlas_bench.cli.compose import compose_settings
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.neural_memory import NeuralMemory
from atlas_bench.runs.settings import RunSettings

LENGTH, VOCABULARY = 2048, 12
# Here the memory is written with attention over its own contents. With rates near 1 this is
# chaotic, and its gradient, though finite, is useless. The loss stays where it began (3.6).
LEARNS_NOTHING = ("atlas_mac",)


@cache
def settings(name: str) -> RunSettings:
    overrides = [f"model={name}", "scale.width=16", "scale.layers=1", "model.match=none"]
    return compose_settings(overrides)


def wide_open(name: str) -> LanguageModel:
    """The preset with gates that start near 1: everything is written, and nothing is forgotten."""
    model = build_model(settings(name).model, settings(name).scale, vocab_size=VOCABULARY, seed=0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NeuralMemory) and module.gate is not None:
                module.gate.bias.fill_(2.5)
    return model


def hard_stream(step: int) -> torch.Tensor:
    """(1, LENGTH + 1): a key, then its value, which changes every 64 tokens; four keys in all."""
    generator = np.random.default_rng(step)
    keys = generator.integers(0, 4, LENGTH // 2 + 1)
    meaning = generator.integers(4, VOCABULARY, (LENGTH // 64 + 1, 4))
    values = meaning[np.arange(len(keys)) // 32, keys]
    stream = np.stack([keys, values], 1).reshape(-1)[: LENGTH + 1]
    return torch.from_numpy(stream)[None]


def train(model: LanguageModel, steps: int, precision: torch.dtype) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(steps):
        tokens = hard_stream(step)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            hidden, state = model(tokens[:, :-1])
            # Only values can be predicted; they stand at odd places, after their keys.
            logits = model.logits(hidden[:, 0::2]).float()
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1::2].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert torch.isfinite(norm), f"step {step}: the gradient is not finite"
        optimizer.step()
        losses.append(loss.item())
        for layer in state:
            for memory in memories_of(layer):
                assert all(torch.isfinite(tensor).all() for tensor in memory.tensors())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ANYWHERE)
def test_finite_and_learning(name: str, precision: torch.dtype) -> None:
    losses = train(wide_open(name), 200, precision)
    first, last = np.mean(losses[:10]), np.mean(losses[-20:])
    message = f"the loss went from {first:.2f} to {last:.2f}"
    assert last < first + (0.1 if name in LEARNS_NOTHING else -0.1), message


@pytest.mark.parametrize(
    "precision", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
# The gradients of the last two grow without bound over the sequence unless they are limited.
@pytest.mark.parametrize("name", ["titans", "omeganet", "atlas", "atlas_mac", "atlas_window_1"])
def test_finite_at_first(name: str, precision: torch.dtype) -> None:
    losses = train(wide_open(name), 2, precision)
    assert np.isfinite(losses).all()
