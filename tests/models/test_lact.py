"""LaCT's memory beside its recurrence, written token by token from the paper with autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlas_bench.memory.schedule import COEFFICIENTS
from atlas_bench.models.lact import LargeChunkMemory
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings

CHUNK, LENGTH = 4, 11
MEMORY = MemorySettings(chunk=CHUNK, expansion=2, newton_schulz_coefficients="lact")


def mixer() -> LargeChunkMemory:
    torch.manual_seed(0)
    model = ModelSettings(mixers=["lact"], memory=MEMORY)
    return LargeChunkMemory(model, ScaleSettings(width=12, heads=2)).double()


def inputs() -> dict[str, Tensor]:
    """q, k, v, three rates and the momentum's gate of LENGTH tokens, all leaves."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"q": (6,), "k": (6,), "v": (6,), "rates": (3,), "momentum": ()}
    return {
        name: torch.rand(
            2, 2, LENGTH, *size, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for name, size in sizes.items()
    }


def network(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    gate = torch.einsum("oi,i->o", weights["W1"], x)
    gate = gate / (1 + torch.exp(-gate))
    return weights["W2"] @ (gate * (weights["W3"] @ x))


def orthogonal(x: Tensor) -> Tensor:
    x = x / x.norm()
    for a, b, c in COEFFICIENTS["lact"]:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


def recurrence(initial: dict[str, Tensor], x: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """One head of one sequence: y (LENGTH, E), and W at the end."""
    weights, momentum = dict(initial), {name: torch.zeros_like(w) for name, w in initial.items()}
    outputs, chunk = [], []
    for t in range(LENGTH):
        outputs.append(network(weights, x["q"][t]))
        chunk.append(t)
        if len(chunk) < CHUNK:
            continue
        total = {name: torch.zeros_like(w) for name, w in weights.items()}
        for i in chunk:
            loss = -network(weights, x["k"][i]) @ x["v"][i]
            grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            for number, (name, grad) in enumerate(zip(weights, grads, strict=True)):
                total[name] = total[name] - x["rates"][i, number] * grad
        theta = sum(x["momentum"][i] for i in chunk) / CHUNK
        momentum = {name: theta * momentum[name] + total[name] for name in total}
        moved = {name: w + orthogonal(momentum[name]) for name, w in weights.items()}
        weights = {
            name: torch.stack(
                [
                    row / (row.norm() + 1e-5) * first.norm()
                    for row, first in zip(w, initial[name], strict=True)
                ]
            )
            for name, w in moved.items()
        }
        chunk = []
    return torch.stack(outputs), weights


def test_the_memory_is_its_recurrence() -> None:
    layer, x = mixer(), inputs()
    leaves = [*x.values(), *layer.initial.values()]
    y, fast = layer.run_chunks(x, layer.init_state(2).fast)
    expected, ends = (
        torch.empty_like(y),
        {name: torch.empty_like(w) for name, w in fast.weights.items()},
    )
    for b in range(2):
        for h in range(2):
            initial = {name: w[h] for name, w in layer.initial.items()}
            here = {name: tensor[b, h] for name, tensor in x.items()}
            expected[b, h], weights = recurrence(initial, here)
            for name, weight in weights.items():
                ends[name][b, h] = weight
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-12)
    for name, weight in fast.weights.items():
        torch.testing.assert_close(weight, ends[name], rtol=1e-9, atol=1e-12)
    seen = torch.rand(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    gradients = torch.autograd.grad((y * seen).sum(), leaves)
    for gradient, right in zip(
        gradients, torch.autograd.grad((expected * seen).sum(), leaves), strict=True
    ):
        assert ((gradient - right).norm() / right.norm()).item() < 1e-9


def test_a_chunk_lowers_its_loss_and_keeps_the_norms_of_rows() -> None:
    layer, x = mixer(), inputs()
    _, fast = layer.run_chunks({n: t[:, :, :CHUNK] for n, t in x.items()}, layer.init_state(2).fast)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        hidden = torch.nn.functional.silu(x["k"] @ weights["W1"].mT) * (x["k"] @ weights["W3"].mT)
        return -(hidden @ weights["W2"].mT * x["v"])[:, :, :CHUNK].sum((-2, -1))

    assert (loss(fast.weights) < loss(dict(layer.initial))).all()
    for name, weight in fast.weights.items():
        norms = layer.initial[name].norm(dim=-1).expand(2, -1, -1)
        torch.testing.assert_close(weight.norm(dim=-1), norms, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_state_is_float32_under_autocast(kind: torch.dtype) -> None:
    layer = mixer().float()
    x = torch.randn(2, LENGTH, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
        y, state = layer(x, layer.init_state(2))
    assert y.isfinite().all()
    held = [*state.fast.weights.values(), *state.fast.momentum.values()]
    assert {tensor.dtype for tensor in held} == {torch.float32}
