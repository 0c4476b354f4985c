"""Mamba's block against its equations, token by token, and its scan over long and steep decays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from atlas_bench.models import mamba
from atlas_bench.models.build import build_model
from atlas_bench.models.mamba import Mamba, MambaState, selective_scan
from atlas_bench.models.settings import ModelSettings, ScaleSettings

SETTINGS = ModelSettings(name="mamba", mixers=["mamba"], match="none")
SCALE = ScaleSettings(width=8, layers=1, heads=2)


def mixer() -> Mamba:
    return build_model(SETTINGS, SCALE, vocab_size=16, seed=0).double().mixers[0]


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softplus(x: Tensor) -> Tensor:
    return (1 + x.exp()).log()


def block(layer: Mamba, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence (T, W) from h (E, N) and no past inputs: y (T, W), and h (Algorithm 2)."""
    rank, inputs, outputs = layer.rank, [], []
    for token in x:
        channels, gate = (layer.projections.weight @ token).chunk(2)
        inputs.append(channels)
        mixed = layer.convolution_bias
        for back, past in enumerate(reversed(inputs[-4:])):
            mixed = mixed + layer.convolution[:, 3 - back] * past
        mixed = mixed * mixed.sigmoid()
        selected = layer.selection.weight @ mixed
        step = softplus(layer.step.weight @ selected[:rank] + layer.step.bias)
        write, read = selected[rank:].chunk(2)
        decay = torch.exp(torch.outer(step, torch.ones(16)) * -layer.log_rate.exp())
        hidden = decay * hidden + torch.outer(step * mixed, write)
        y = hidden @ read + layer.skip * mixed
        outputs.append(layer.out.weight @ (y * gate * gate.sigmoid()))
    return torch.stack(outputs), hidden


@pytest.mark.parametrize(("length", "piece"), [(1, 256), (23, 256), (41, 32)])
def test_the_papers_equations(length: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, the state and every gradient, over whole and broken chunks and pieces."""
    monkeypatch.setattr(mamba, "PIECE", piece)
    layer, x, hidden = mixer(), tensor(2, length, 8), tensor(2, 16, 16, seed=1)
    leaves = [x.requires_grad_(), hidden.requires_grad_(), *layer.parameters()]
    y, state = layer(x, replace(layer.init_state(2), hidden=hidden))
    pairs = [block(layer, *pair) for pair in zip(x, hidden, strict=True)]
    expected = [torch.stack(part) for part in zip(*pairs, strict=True)]
    torch.testing.assert_close([y, state.hidden], expected, rtol=1e-10, atol=1e-12)
    gradients, correct = (
        torch.autograd.grad(sum((part * tensor(*part.shape)).sum() for part in results), leaves)
        for results in ([y, state.hidden], expected)
    )
    for gradient, other in zip(gradients, correct, strict=True):
        assert (gradient - other).norm() <= 1e-9 * other.norm()


def test_float32_over_long_and_steep_decays() -> None:
    """Steps of 0 to 20 at rates of 1 to 16: within a chunk decays reach exp(-5000)."""
    length = 600
    x, write, read = tensor(1, length, 8), tensor(1, length, 16, seed=1), tensor(1, length, 16)
    step = 20 * torch.rand(1, length, 8, generator=torch.Generator().manual_seed(2)).double() ** 8
    rate = -torch.arange(1.0, 17.0, dtype=torch.float64).expand(8, 16)
    arguments = x, step, rate, write, read, torch.zeros(1, 8, 16, dtype=torch.float64)
    y, hidden = selective_scan(*arguments)
    single = [part.float().requires_grad_() for part in arguments]
    y_single, hidden_single = selective_scan(*single)
    torch.testing.assert_close(y_single.double(), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(hidden_single.double(), hidden, rtol=1e-4, atol=1e-4)
    y_single.square().sum().backward()
    assert all(part.grad.isfinite().all() for part in single)


def test_the_state_is_float32_under_bfloat16() -> None:
    layer = mixer().float()
    x = tensor(2, 40, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x, layer.init_state(2))
    assert isinstance(state, MambaState)
    assert state.hidden.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x, layer.init_state(2))[0], rtol=0.1, atol=0.1)
