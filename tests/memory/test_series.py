"""DeltaTTT beside its equations, token by token: outputs, every gradient, any cut into calls."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error
from torch import Tensor

from atlas_bench.memory import Gates, MemoryParameters, MemorySpec
from atlas_bench.memory.series import init_series, series_memory

LENGTH, KEY, VALUE = 75, 4, 3  # more than a block of 64 tokens


def spec(retain: str = "none", *, bounded: bool = True) -> MemorySpec:
    return MemorySpec(network="matrix", chunk=1, retain=retain, bounded_step=bounded)


def leaves(bounded: bool) -> dict[str, Tensor]:
    """Inputs and initial weights; unbounded steps are as small as keys that are not normal need."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, LENGTH, 2)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    start = init_series(spec(), heads=2, key_dim=KEY, value_dim=VALUE, generator=generator)
    named = {
        "q": normal(*shape, KEY),
        "k": torch.nn.functional.normalize(normal(*shape, KEY), dim=-1),
        "v": 2 * normal(*shape, VALUE),
        "alpha": torch.rand(shape, generator=generator, dtype=torch.float64),
        "beta": (2 if bounded else 0.1) * normal(*shape).sigmoid(),
        "retain": 0.9 + 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64),
        "A": start.weights["W2"].double() + 0.3 * normal(2, VALUE, KEY),
        "B": start.weights["W1"].double(),
    }
    return {name: x.requires_grad_() for name, x in named.items()}


def by_equations(x: dict[str, Tensor], *, bounded: bool, decay: bool) -> tuple[Tensor, dict]:
    """2610.08553 Eq 9-12 with h = silu(A_(t-1) k); steps of at most 1 / |key|^2."""
    layer = {name: x[name].expand(2, *x[name].shape) for name in ("A", "B")}
    outputs = []

    def learnt(name: str, key: Tensor, rate: Tensor, keep: Tensor | float) -> Tensor:
        if bounded:
            rate = torch.minimum(rate, 1 / (key * key).sum(-1))
        error = value - torch.einsum("bhvk,bhk->bhv", layer[name], key)
        return keep * layer[name] + torch.einsum("bh,bhv,bhk->bhvk", rate, error, key)

    for t in range(LENGTH):
        key, value = x["k"][:, t], x["v"][:, t]
        keep = x["retain"][:, t, :, None, None] if decay else 1.0
        address = torch.einsum("bhvk,bhk->bhv", layer["A"], key)
        address = address * address.sigmoid()
        layer = {
            "A": learnt("A", key, x["alpha"][:, t], keep),
            "B": learnt("B", address, x["beta"][:, t], keep),
        }
        hidden = torch.einsum("bhvk,bhk->bhv", layer["A"], x["q"][:, t])
        outputs.append(torch.einsum("bhvw,bhw->bhv", layer["B"], hidden * hidden.sigmoid()))
    return torch.stack(outputs, 1), layer


def by_series(x: dict[str, Tensor], member: MemorySpec, cuts: list[int]) -> tuple[Tensor, dict]:
    parameters = MemoryParameters({"W1": x["B"], "W2": x["A"]})
    state, outputs = None, []
    for start, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        part = {name: x[name][:, start:end] for name in ("q", "k", "v", "alpha", "beta", "retain")}
        gates = tuple(Gates(retain=part["retain"], rate=part[rate]) for rate in ("alpha", "beta"))
        inputs = (part["q"], part["k"], part["v"])
        y, state = series_memory(member, parameters, *inputs, gates, state)
        outputs.append(y)
    return torch.cat(outputs, 1), {"A": state.weights["W2"], "B": state.weights["W1"]}


@pytest.mark.parametrize("cuts", [[], [1, 2, 40, 40, 74], list(range(1, LENGTH))])
@pytest.mark.parametrize(("retain", "bounded"), [("none", True), ("none", False), ("scalar", True)])
def test_equals_its_equations(retain: str, bounded: bool, cuts: list[int]) -> None:
    x = leaves(bounded)
    expected, end = by_equations(x, bounded=bounded, decay=retain == "scalar")
    found, found_end = by_series(x, spec(retain, bounded=bounded), cuts)
    assert relative_error(found, expected) < 1e-9
    for name, weight in end.items():
        assert relative_error(found_end[name], weight) < 1e-9
    used = [name for name in x if retain == "scalar" or name != "retain"]
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    wanted, ours = (
        torch.autograd.grad((y * direction).sum(), [x[name] for name in used])
        for y in (expected, found)
    )
    for name, one, other in zip(used, ours, wanted, strict=True):
        assert other.abs().max() > 0, name
        assert relative_error(one, other) < 1e-9, name


def test_no_tokens_change_nothing() -> None:
    x = leaves(bounded=True)
    parameters = MemoryParameters({"W1": x["B"], "W2": x["A"]})
    part = {name: x[name][:, :0] for name in ("q", "k", "v", "alpha", "beta")}
    gates = tuple(Gates(rate=part[rate]) for rate in ("alpha", "beta"))
    y, state = series_memory(spec(), parameters, part["q"], part["k"], part["v"], gates)
    assert y.shape == (2, 0, 2, VALUE)
    torch.testing.assert_close(state.weights["W1"][0], x["B"])
