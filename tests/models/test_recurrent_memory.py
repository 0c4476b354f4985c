"""RMT and ARMT against the equations of their papers, one token after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlas_bench.models.accounting import account, parameters_by_part
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import Block, LanguageModel
from atlas_bench.models.settings import ModelSettings, RecurrenceSettings, ScaleSettings

SCALE = ScaleSettings(width=8, layers=2, heads=2, feed_forward=12)
SEGMENT, MEMORY = 5, 3
TOKENS = torch.randint(0, 16, (2, 2 * SEGMENT + 3), generator=torch.Generator().manual_seed(0))


def settings(name: str) -> ModelSettings:
    recurrence = RecurrenceSettings(memory_tokens=MEMORY, key_dim=4 if name == "armt" else None)
    return ModelSettings(name=name, mixers=["attention"], segment=SEGMENT, recurrence=recurrence)


def build(name: str) -> LanguageModel:
    return build_model(settings(name), SCALE, vocab_size=16, seed=0).double()


# a Transformer written again, without caches -------------------------------------------------


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def turned(x: Tensor) -> Tensor:
    """Rotary positions of the vectors (n, E) at positions 0 to n - 1, as complex numbers."""
    half = x.shape[1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(len(x), dtype=x.dtype)[:, None] * rates
    pairs = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag], 1)


def attended(block: Block, x: Tensor) -> Tensor:
    """What the attention of a block adds to (n, width)."""
    mixer, results = block.mixer, []
    q, k, v = (norm(x, block.mixer_norm.weight) @ mixer.qkv.weight.T).chunk(3, 1)
    for head in range(mixer.heads):
        columns = slice(head * mixer.head_dim, (head + 1) * mixer.head_dim)
        q_h, k_h = turned(q[:, columns]), turned(k[:, columns])
        rows = [
            (q_h[t] @ k_h[: t + 1].T / mixer.head_dim**0.5).softmax(0) @ v[: t + 1, columns]
            for t in range(len(x))
        ]
        results.append(torch.stack(rows))
    return torch.cat(results, 1) @ mixer.out.weight.T


def block_output(block: Block, x: Tensor) -> Tensor:
    x = x + attended(block, x)
    up = norm(x, block.feed_forward_norm.weight) @ block.feed_forward.up.weight.T
    gate, value = up.chunk(2, 1)
    return x + (gate * gate.sigmoid() * value) @ block.feed_forward.down.weight.T


# the recurrences ------------------------------------------------------------------------------


def rmt(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Hidden states (T, width) of one sequence (2207.06881, section 3.2)."""
    memory, hidden = model.memory_tokens, []
    for segment in model.embedding.weight[tokens].split(SEGMENT):
        for t in range(len(segment)):  # nothing behind t is there when t is read
            x = torch.cat([memory, segment[: t + 1]])
            for block in model.blocks:
                x = block_output(block, x)
            hidden.append(norm(x[-1], model.norm.weight))
        x = torch.cat([memory, segment, memory])
        for block in model.blocks:
            x = block_output(block, x)
        memory = norm(x[-MEMORY:], model.norm.weight)
    return torch.stack(hidden)


def phi(x: Tensor) -> Tensor:
    """DPFP-3 of one vector, divided by its norm."""
    r = [*x.clamp_min(0), *(-x).clamp_min(0)]
    values = torch.stack([r[i] * r[(i + j) % len(r)] for j in (1, 2, 3) for i in range(len(r))])
    return values / values.norm()


def associated(block: Block, x: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Eq 4, added to every row of (n, width); A is (width, K)."""
    rows = []
    for row in x:
        features = phi(block.association.query.weight @ row)
        rows.append(row + a @ features / (z @ features + 1e-5))
    return torch.stack(rows)


def updated(block: Block, m: Tensor, a: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Eq 1 to 3."""
    maps, new_a, new_z = block.association, a, z
    for row in m:
        key, value = phi(maps.key.weight @ row), maps.value.weight @ row
        rate = (maps.rate.weight @ row + maps.rate.bias).sigmoid()
        missing = (1 - (z @ key + 1e-5) / (key @ key)).clamp(0, 1).detach()
        old = a @ key / (z @ key + 1e-5)
        new_a = new_a + rate * torch.outer(value - old, key)
        new_z = new_z + missing * key
    return new_a, new_z


def armt(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Hidden states (T, width) of one sequence (2407.04841, section 2)."""
    empty = torch.zeros(8, 24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    memories, hidden = [empty for _ in model.blocks], []
    for segment in model.embedding.weight[tokens].split(SEGMENT):
        for t in range(len(segment)):
            x = segment[: t + 1]
            for block, memory in zip(model.blocks, memories, strict=True):
                x = block_output(block, associated(block, x, *memory))
            hidden.append(norm(x[-1], model.norm.weight))
        x = torch.cat([segment, model.memory_tokens])
        for i, block in enumerate(model.blocks):
            x = block_output(block, associated(block, x, *memories[i]))
            memories[i] = updated(block, x[-MEMORY:], *memories[i])
    return torch.stack(hidden)


@pytest.mark.parametrize(("name", "reference"), [("rmt", rmt), ("armt", armt)])
def test_the_papers_equations(name: str, reference) -> None:
    """Outputs and the gradient of every parameter, through two segments and part of a third."""
    model = build(name)
    weights = torch.randn(2, TOKENS.shape[1], 8, generator=torch.Generator().manual_seed(1))
    hidden, expected = model(TOKENS)[0], torch.stack([reference(model, row) for row in TOKENS])
    torch.testing.assert_close(hidden, expected, rtol=1e-9, atol=1e-11)
    parameters = dict(model.named_parameters())
    gradients, expected_gradients = (
        torch.autograd.grad((y * weights).sum(), list(parameters.values()))
        for y in (hidden, expected)
    )
    for key, gradient, correct in zip(parameters, gradients, expected_gradients, strict=True):
        assert (gradient - correct).norm() <= 1e-9 * correct.norm(), key
        assert correct.norm() > 0, key


# what the mechanism is for --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rmt", "armt"])
def test_only_the_memory_passes_between_segments(name: str) -> None:
    model = build(name)
    _, state = model(TOKENS[:, :SEGMENT])
    assert state[-1].position == 0
    assert all(layer.keys is None for layer in state[:-1])
    other = TOKENS.clone()
    other[:, 0] = (other[:, 0] + 1) % 16
    change = (model(TOKENS)[0] - model(other)[0]).abs().amax((0, 2))
    assert change.gt(1e-9).all()
    _, fresh = model(other[:, :SEGMENT])
    again, _ = model(TOKENS[:, SEGMENT:], (*fresh[:-1], state[-1]))
    assert torch.equal(again, model(TOKENS[:, SEGMENT:], state)[0])


def test_an_association_is_recalled_and_replaced() -> None:
    """At a rate of 1 a key gives the value that was written last, and z counts it once."""
    maps = build("armt").blocks[0].association
    with torch.no_grad():
        maps.rate.bias.fill_(100.0)
        maps.query.weight.copy_(maps.key.weight)
        first, second = torch.randn(
            2, 1, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        # The same key with another value: what differs is not seen by the key.
        second = first + second - second @ (torch.linalg.pinv(maps.key.weight) @ maps.key.weight)
        state = maps.write(first, maps.init_state(1))
        once = state.keys_BK
        torch.testing.assert_close(maps.read(first, state), maps.value(first), rtol=1e-4, atol=1e-5)
        for _ in range(3):
            state = maps.write(second, state)
            read = maps.read(first, state)
            torch.testing.assert_close(read, maps.value(second), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.keys_BK, once, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["rmt", "armt"])
def test_the_state_is_float32_under_bfloat16(name: str) -> None:
    model = build(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        hidden, state = model(TOKENS)
    kept = state[-1].memory if name == "rmt" else state[-1].memory[0].values_BKW
    assert kept.dtype == torch.float32
    torch.testing.assert_close(hidden.float(), model(TOKENS)[0], rtol=0.1, atol=0.1)


def test_a_part_of_its_own_in_the_account() -> None:
    costs = account(settings("armt"), SCALE, vocab_size=16, tokens=SEGMENT + 1)
    model = build("armt")
    maps = 2 * 4 * 8 + 8 * 8 + 8 + 1
    assert parameters_by_part(model)["memory of segments"] == MEMORY * 8 + 2 * maps
    assert costs.parameters == parameters_by_part(model)
    assert not costs.grows


def test_what_cannot_be_built_says_so() -> None:
    model = settings("rmt")
    model.mixers = ["attention", "neural_memory"]
    with pytest.raises(ValueError, match=r"use model.mixers=\[attention\] or model.recurrence"):
        build_model(model, SCALE, vocab_size=16, seed=0)
    model = settings("rmt")
    model.match = "state"
    with pytest.raises(ValueError, match="model.match=state cannot match rmt"):
        build_model(model, SCALE, vocab_size=16, seed=0)
    model = settings("rmt")
    model.segment = 0
    with pytest.raises(ValueError, match="model.segment=0 must be at least 1"):
        build_model(model, SCALE, vocab_size=16, seed=0)
