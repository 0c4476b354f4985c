"""One forward for training, prefill and decoding; parameter matching; caches of constant size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atlas_bench.models import language_model
from atlas_bench.models.attention import attend
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.models.settings import (
    AttentionSettings,
    MemorySettings,
    ModelSettings,
    ScaleSettings,
)

PRESETS = {
    "atlas": ModelSettings(
        memory=MemorySettings(
            features="polynomial", window=4, update_every=4, chunk=8, optimizer="muon",
            gate="hard_sigmoid", bounded_step=True,
        )
    ),
    "titans": ModelSettings(
        name="titans",
        memory=MemorySettings(optimizer="momentum", rate_inside=True, chunk=8, bounded_step=True),
    ),
    "transformer": ModelSettings(name="transformer", mixers=["attention"]),
    "sliding_window": ModelSettings(
        name="transformer",
        mixers=["attention"],
        attention=AttentionSettings(window=5, convolution=True),
    ),
    "convolution_of_scale": ModelSettings(name="transformer", mixers=["attention"]),
    "pair_weights": ModelSettings(
        memory=MemorySettings(window=3, window_weights="pair", optimizer="gd", chunk=4)
    ),
}  # fmt: skip
SCALE = ScaleSettings(width=32, layers=2, heads=4, memory_heads=2, memory_key_dim=6)


def build(name: str, seed: int = 0) -> LanguageModel:
    scale = replace(SCALE, attention_convolution=name == "convolution_of_scale")
    model = build_model(PRESETS[name], scale, vocab_size=64, seed=seed).double()
    return model.eval()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cuts", [[9], [1, 2, 3], list(range(1, 21)), [8, 16]], ids=str)
def test_any_split_gives_the_same_hidden_states(name: str, cuts: list[int]) -> None:
    model = build(name)
    tokens = torch.randint(0, 64, (2, 21), generator=torch.Generator().manual_seed(0))
    whole, _ = model(tokens)
    state, parts = model.init_state(2), []
    for start, end in zip([0, *cuts], [*cuts, 21], strict=True):
        hidden, state = model(tokens[:, start:end], state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", PRESETS)
def test_causal_and_batch_independent(name: str) -> None:
    model = build(name)
    tokens = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 11] = (changed[0, 11] + 1) % 64
    with torch.no_grad():
        before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[0, :11], after[0, :11])
    assert not torch.allclose(before[0, 11:], after[0, 11:])
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_gets_a_gradient_and_the_seed_decides(name: str) -> None:
    model, again, other = build(name), build(name), build(name, seed=1)
    tokens = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    hidden, _ = model(tokens)
    model.logits(hidden).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(model.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize("name", ["atlas", "titans"])
@pytest.mark.parametrize("width", [64, 128])
def test_matched_parameter_counts(name: str, width: int) -> None:
    scale = ScaleSettings(width=width, layers=2, heads=4, memory_heads=4, memory_key_dim=8)
    counts = [
        count_parameters(build_model(PRESETS[preset], scale, vocab_size=1024, seed=0))
        for preset in (name, "transformer")
    ]
    assert abs(counts[0] / counts[1] - 1) < 0.01


TABLE_7 = {  # ATLAS Table 7: width, layers, heads; 12 L d^2 without embeddings, +-15 %
    "170m": (768, 12, 16),
    "340m": (1024, 24, 16),
    "760m": (1536, 24, 16),
    "1.3b": (2048, 18, 8),
}


@pytest.mark.parametrize("name", ["atlas", "titans"])
@pytest.mark.parametrize("size", TABLE_7)
def test_every_model_matches_the_transformer_at_every_scale(name: str, size: str) -> None:
    width, layers, heads = TABLE_7[size]
    scale = ScaleSettings(width=width, layers=layers, heads=heads, memory_key_dim=16)
    with torch.device("meta"):
        matched, transformer = (
            count_parameters(build_model(PRESETS[preset], scale, vocab_size=32000, seed=0))
            for preset in (name, "transformer")
        )
    assert abs(matched / transformer - 1) < 0.01
    blocks = transformer - 32000 * width
    assert abs(blocks / (12 * layers * width**2) - 1) < 0.15


def test_a_mixer_larger_than_the_budget_is_refused() -> None:
    memory = MemorySettings(features="polynomial", degree=3, optimizer="gd")
    scale = ScaleSettings(memory_heads=1, memory_key_dim=32)
    with pytest.raises(ValueError, match="cannot match"):
        build_model(ModelSettings(memory=memory), scale, vocab_size=64, seed=0)


@pytest.mark.parametrize("name", PRESETS)
def test_state_bytes_are_what_the_state_holds(name: str) -> None:
    """Exact for the cache; for the memory an upper bound within a fifth, and constant."""
    model = build(name).float()
    tokens = torch.randint(0, 64, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, state = model(tokens)
    held = 0
    for layer in state:
        if hasattr(layer, "keys"):
            held += 4 * (layer.keys.numel() + layer.values.numel())
        else:
            held += layer.memory.bytes
        held += 0 if layer.tail is None else 4 * layer.tail.numel()
    claimed = model.state_bytes(2, 64)
    if PRESETS[name].mixers == ["attention"]:
        assert held == claimed
    else:
        assert claimed == model.state_bytes(2, 10**7)
        assert 0.5 * claimed < held <= claimed


@pytest.mark.parametrize(("length", "cached"), [(1, 0), (7, 0), (23, 0), (23, 4), (6, 4), (1, 4)])
@pytest.mark.parametrize("window", [None, 5])
def test_attention_against_the_written_out_mask(
    length: int, cached: int, window: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2, length, 4, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, cached + length, 4, generator=generator, dtype=torch.float64)
    at = torch.arange(cached, cached + length)[:, None]
    key = torch.arange(cached + length)
    seen = (key <= at) & (key > at - (window or 10**9))
    scores = (q @ k.mT / 2).masked_fill(~seen, -torch.inf)
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, window), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((ModelSettings(), ScaleSettings(heads=3)), "scale.heads=3 does not divide"),
        ((ModelSettings(), ScaleSettings(memory_heads=7)), "scale.memory_heads=7 does not divide"),
        ((ModelSettings(mixers=["atention"]), ScaleSettings()), "did you mean attention"),
        ((ModelSettings(match="all"), ScaleSettings()), "model.match=all"),
        (
            (ModelSettings(mixers=["mamba", "attention"]), ScaleSettings(layers=1)),
            "scale.layers=1 has no place for attention, number 2 of model.mixers",
        ),
        ((PRESETS["transformer"], ScaleSettings(width=12, heads=4)), "odd size 3"),
        (
            (ModelSettings(), ScaleSettings(feed_forward=-1)),
            "scale.feed_forward=-1 must be at least 0",
        ),
    ],
)
def test_impossible_settings_say_so(settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(*settings, vocab_size=64, seed=0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_scale_without_a_feed_forward_is_mixers_alone(name: str) -> None:
    scale = ScaleSettings(width=32, layers=2, heads=4, memory_heads=2, memory_key_dim=6)
    scale.feed_forward = 0
    model = build_model(PRESETS[name], scale, vocab_size=64, seed=0)
    mixers = sum(count_parameters(block.mixer) for block in model.blocks)
    norms = 3 * 32  # one before every mixer and one at the end
    assert count_parameters(model) == 64 * 32 + mixers + norms
    tokens = torch.randint(0, 64, (2, 20), generator=torch.Generator().manual_seed(0))
    x = model.embedding(tokens)
    for block in model.blocks:
        y, *_ = block.mixer(block.mixer_norm(x), block.mixer.init_state(2))
        x = x + y
    torch.testing.assert_close(model(tokens)[0], model.norm(x))


def test_losses_in_parts_are_those_of_all_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("transformer").float()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, SCALE.width, generator=generator, requires_grad=True)
    targets = torch.randint(0, 64, (50,), generator=generator)
    results = []
    for at_once in (2**26, 64 * 7):  # 7 positions at a time; not a divisor of 50
        monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", at_once)
        losses, likely = model.token_losses(hidden, targets)
        gradients = torch.autograd.grad(losses.mean(), [hidden, model.embedding.weight])
        with torch.inference_mode():
            assert torch.equal(model.token_losses(hidden, targets)[0], losses)
        results.append((losses, likely, *gradients))
    scores = model.logits(hidden)
    torch.testing.assert_close(results[0][0], scores.logsumexp(-1) - scores[range(50), targets])
    assert torch.equal(results[0][1], scores.argmax(-1))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_all_logits_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("transformer").float()
    monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", 64 * 7)
    kept = []
    hidden = torch.randn(50, SCALE.width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        model.token_losses(hidden, torch.zeros(50, dtype=torch.long))
    assert sum(kept) < 50 * 64
