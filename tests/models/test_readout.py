"""All tokens from the last hidden state: it is the only way from the sequence to its reading."""

from __future__ import annotations

import math

import pytest
import torch
from presets import assert_every_parameter_learns

from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.models.readout import LastReadout, positions
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings

SCALE = ScaleSettings(width=32, layers=2, heads=4, tie_embeddings=False)
MODELS = {
    "transformer": ModelSettings(name="transformer", mixers=["attention"]),
    "deltanet": ModelSettings(
        memory=MemorySettings(network="matrix", optimizer="gd", retain="none", gate="sigmoid")
    ),
}
TOKENS = torch.randint(0, 16, (3, 12), generator=torch.Generator().manual_seed(0))


def build(name: str, readout: str = "last") -> LanguageModel:
    return build_model(MODELS[name], SCALE, vocab_size=16, seed=0, readout=readout).double()


def test_only_the_last_position_is_looked_at() -> None:
    readout = LastReadout(32)
    x = torch.randn(2, 9, 32, requires_grad=True)
    y = readout(x)
    other = torch.cat([torch.randn(2, 8, 32), x[:, -1:]], 1)
    assert torch.equal(readout(other), y)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (y * weight).sum().backward()
    assert (x.grad[:, :-1] == 0).all()
    assert (x.grad[:, -1] != 0).all()
    assert not torch.allclose(y[:, 0], y[:, 1]), "positions are told apart"


def test_positions_are_sinusoids_of_many_periods() -> None:
    code = positions(50, 8)
    assert code.shape == (50, 8)
    torch.testing.assert_close(code[:, 0], torch.arange(50.0).sin())
    torch.testing.assert_close(code[7, 7], torch.tensor(math.cos(7 / 10_000)))
    assert torch.unique(code, dim=0).shape[0] == 50


@pytest.mark.parametrize("name", MODELS)
def test_gradient_flows_to_everything_and_from_the_first_token(name: str) -> None:
    model = build(name)
    hidden = assert_every_parameter_learns(model, TOKENS)
    assert hidden.shape == (3, 12, 32)
    changed = TOKENS.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 16
    with torch.no_grad():
        again = model(changed)[0]
    assert not torch.allclose(again[0], hidden[0])
    torch.testing.assert_close(again[1:], hidden[1:], rtol=0, atol=1e-12)
    plain = build(name, "next")
    assert count_parameters(model) - count_parameters(plain) == 2 * (32 * 32 + 32 + 32)
    assert plain.readout is None


def test_a_state_that_forgets_reads_the_same_whatever_was_there() -> None:
    """With the memory's way closed, only the last token and the convolution's reach are left."""
    model = build("deltanet")
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.log_step.fill_(-torch.inf)  # nothing is ever written
    changed = TOKENS.clone()
    changed[:, :4] = (changed[:, :4] + 1) % 16  # two convolutions of 4 reach back 6 tokens
    with torch.no_grad():
        assert torch.equal(model(changed)[0], model(TOKENS)[0])
        changed[:, -1] = (changed[:, -1] + 1) % 16
        assert not torch.allclose(model(changed)[0], model(TOKENS)[0])
