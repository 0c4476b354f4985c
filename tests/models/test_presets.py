"""Every preset of conf/model: one function, causal, trainable, saved and of matched size."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from presets import ANYWHERE, GROWING, assert_every_parameter_learns, memories_of
from safetensors.torch import load_file, save_file

from atlas_bench.cli.compose import compose_settings
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.runs.settings import RunSettings

LENGTH = 70  # more than two chunks and two windows of the scale below


@cache
def settings(name: str, *overrides: str) -> RunSettings:
    return compose_settings([f"model={name}", *overrides])


def build(name: str, seed: int = 0) -> LanguageModel:
    """The preset as it is, but narrow, and with windows and segments of 32 tokens."""
    config = settings(name, "scale.attention_window=32", "scale.width=32", "model.match=none")
    return build_model(config.model, config.scale, vocab_size=64, seed=seed).double().eval()


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ANYWHERE)
def test_one_function_however_it_is_called(name: str) -> None:
    """Whole, in pieces and token by token; in training, evaluation and inference mode."""
    model = build(name)
    whole, end = model(tokens())
    cuts = [*range(1, 40), 41, 50, LENGTH]
    with torch.inference_mode():
        state, parts = model.init_state(2), []
        for start, stop in zip([0, *cuts], cuts, strict=False):
            hidden, state = model(tokens()[:, start:stop], state)
            parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-7, atol=1e-8)
    for layer, expected in zip(state, end, strict=True):
        for memory, whole_memory in zip(memories_of(layer), memories_of(expected), strict=True):
            for key, weight in whole_memory.weights.items():
                torch.testing.assert_close(memory.weights[key], weight, rtol=1e-7, atol=1e-8)
    assert torch.equal(model.train()(tokens())[0], whole)


@pytest.mark.parametrize("name", ANYWHERE)
def test_causal_and_batch_independent(name: str) -> None:
    model = build(name)
    changed = tokens()
    changed[0, 41] = (changed[0, 41] + 1) % 64
    with torch.no_grad():
        before, after = model(tokens())[0], model(changed)[0]
    # Not 0 everywhere: a product over a chunk may round differently with what stands behind.
    torch.testing.assert_close(before[0, :41], after[0, :41], rtol=0, atol=1e-11)
    assert (before[0, 41:] - after[0, 41:]).abs().amax(-1).gt(1e-9).any()
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ANYWHERE)
def test_every_parameter_learns_and_is_saved(name: str, tmp_path: Path) -> None:
    model = build(name)
    hidden = assert_every_parameter_learns(model, tokens())
    other = build(name, seed=1)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(tokens())[0], hidden)


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("scale", ["tiny", "340m"])
def test_parameters_are_the_transformers(name: str, scale: str) -> None:
    assert abs(parameters(name, scale) / parameters("transformer", scale) - 1) < 0.01


@cache
def parameters(name: str, scale: str) -> int:
    config = settings(name, f"scale={scale}")
    with torch.device("meta"):
        return count_parameters(build_model(config.model, config.scale, vocab_size=32000, seed=0))


@pytest.mark.parametrize("name", [name for name in ANYWHERE if name not in GROWING])
def test_the_state_does_not_grow(name: str) -> None:
    model = build(name)
    assert model.state_bytes(1, 10**4) == model.state_bytes(1, 10**7)


@pytest.mark.parametrize("name", ANYWHERE)
def test_the_state_has_the_size_that_is_told(name: str) -> None:
    length = 63  # one before the end of every chunk and segment, where most is held
    model = build(name).float()
    with torch.no_grad():
        _, state = model(tokens()[:1, :length])
    sizes = {(t.data_ptr(), t.shape): t.numel() * t.element_size() for t in _tensors(state)}
    assert sum(sizes.values()) == pytest.approx(model.state_bytes(1, length), rel=0.01)


def _tensors(state: object) -> list[torch.Tensor]:
    """Every tensor in nested dataclasses, dicts and tuples."""
    if isinstance(state, torch.Tensor):
        return [state]
    if is_dataclass(state):
        parts = [getattr(state, field.name) for field in fields(state)]
    else:
        parts = list(state.values()) if isinstance(state, dict) else state
    if not isinstance(parts, (list, tuple)):
        return []
    return [tensor for part in parts for tensor in _tensors(part)]


@pytest.mark.parametrize(
    ("scale", "million"), [("170m", 170), ("340m", 340), ("760m", 760), ("1.3b", 1300)]
)
def test_a_scale_has_the_size_of_its_name(scale: str, million: int) -> None:
    config = settings("transformer", f"scale={scale}")
    with torch.device("meta"):
        model = build_model(config.model, config.scale, vocab_size=32000, seed=0)
    assert count_parameters(model) / 1e6 == pytest.approx(million, rel=0.05)
