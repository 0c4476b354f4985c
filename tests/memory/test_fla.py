"""The mapping onto flash-linear-attention's kernels: its algebra here, the kernels on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import Case, relative_error
from library_recurrences import library  # noqa: F401
from torch import Tensor
from torch.nn import functional as F

from atlas_bench.cli.compose import compose_settings
from atlas_bench.memory import (
    Gates,
    MemoryParameters,
    MemorySpec,
    chunk_memory,
    fla,
    recurrent_memory,
)
from atlas_bench.memory.state import checked_inputs, initial_state

DOT = MemorySpec(network="matrix", objective="dot", retain="none", chunk=4)
DELTA = MemorySpec(network="matrix", objective="l2", retain="none", chunk=1)
MAPPED = {
    "dot": (DOT, "simple_gla"),
    "dot, scalar": (replace(DOT, retain="scalar"), "simple_gla"),
    "dot, fixed": (replace(DOT, retain="fixed"), "simple_gla"),
    "dot, polynomial": (replace(DOT, features="polynomial"), "simple_gla"),
    "dot, pair weights": (replace(DOT, window_weights="pair"), "simple_gla"),
    "dot, rate inside": (replace(DOT, rate_inside=True), "simple_gla"),
    "dot, channel": (replace(DOT, retain="channel"), "gla"),
    "delta": (DELTA, "delta_rule"),
    "delta, bounded": (replace(DELTA, bounded_step=True), "delta_rule"),
    "delta, hard": (replace(DELTA, gate="hard_sigmoid"), "delta_rule"),
    "delta, scalar": (replace(DELTA, retain="scalar"), "gated_delta_rule"),
    "delta, bounded, fixed": (
        replace(DELTA, retain="fixed", bounded_step=True),
        "gated_delta_rule",
    ),
    "delta, taylor": (replace(DELTA, retain="scalar", features="taylor"), "gated_delta_rule"),
}
REFUSED = {
    "window": replace(DOT, window=2),
    "every second token": replace(DOT, window=2, update_every=2),
    "momentum": replace(DOT, optimizer="momentum"),
    "two layers": replace(DOT, network="mlp"),
    "chunks of the delta rule": replace(DELTA, chunk=4),
    "channels of the delta rule": replace(DELTA, retain="channel"),
    "bounded dot": replace(DOT, bounded_step=True),
    "keep-rates of 0": replace(DELTA, retain="scalar", gate="hard_sigmoid"),
    "channels of 0": replace(DOT, retain="channel", gate="hard_sigmoid"),
}
PRESETS = ["linear_attention", "retnet", "gla", "deltanet", "gated_deltanet"]


def mapped(spec, params, q, k, v, gates, state=None):
    """`fla.run` with the arguments of `reference`."""
    inputs = checked_inputs(spec, params, q, k, v, gates)
    state = initial_state(spec, params, inputs) if state is None else state
    return fla.run(spec, params, inputs, state)


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize("cuts", [[], [5, 6], list(range(1, 11))], ids=["whole", "parts", "tokens"])
def test_the_library_computes_the_definition(name: str, cuts: list[int], library) -> None:  # noqa: F811
    """Outputs, final memory and every gradient, in float64, however it is cut into calls."""
    spec, operation = MAPPED[name]
    assert fla.operation(spec) == operation
    case = Case(spec, length=11, value_dim=4, rate=3.0 if spec.bounded_step else 0.5)
    y, end = case.run(recurrent_memory)
    state, parts = None, []
    for start, stop in zip([0, *cuts], [*cuts, 11], strict=True):
        part, state = case.run(mapped, start, stop, state)
        parts.append(part)
    assert library == {operation: len(cuts) + 1}
    found = torch.cat(parts, 1)
    assert relative_error(found, y) < 1e-12
    assert relative_error(state.weights["W1"], end.weights["W1"]) < 1e-12
    assert state.position == end.position
    assert [x.shape for x in state.tensors()] == [x.shape for x in end.tensors()]
    wanted = case.gradients(y)
    for leaf, grad in case.gradients(found).items():
        assert relative_error(grad, wanted[leaf], scale=1e-6) < 1e-10, leaf


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_library_does_not_compute_stays(name: str) -> None:
    assert fla.operation(REFUSED[name]) is None


@pytest.mark.parametrize("objective", ["dot", "l2"])
def test_forgetting_everything(objective: str, library) -> None:  # noqa: F811
    """Sigmoids down to exactly 0: as without the logarithm, gradients of what is inside too."""
    spec = replace(DOT if objective == "dot" else DELTA, retain="scalar")
    case = Case(spec, length=12)
    inside = torch.tensor([3.0, -5.0, 9.0, -14.0, 0.0, -16.0, -30.0, 2.0, -800.0, 40.0, -10.0, 1.0])
    inside = inside.double()[None, :, None].expand(2, 12, 2).clone().requires_grad_()
    weights = torch.randn(2, 12, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    leaves = {"inside": inside, **{leaf: case.inputs[leaf] for leaf in ("q", "k", "v", "rate")}}

    def run(form) -> tuple[Tensor, ...]:
        case.inputs["retain"] = inside.sigmoid()
        y, state = case.run(form)
        return y, state.weights["W1"], *torch.autograd.grad((y * weights).sum(), leaves.values())

    named = zip(("y", "W", *leaves), run(mapped), run(recurrent_memory), strict=True)
    for what, found, expected in named:
        assert torch.isfinite(found).all(), what
        assert relative_error(found, expected) < 1e-5, what


def test_chunked_takes_it_where_it_applies(library, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    case = Case(DOT, length=9)
    case.run(chunk_memory)
    assert library == {}, "a CPU has no kernels"
    monkeypatch.setattr(fla, "applies", lambda spec, params, v: True)
    y, _ = case.run(chunk_memory)
    assert library == {"simple_gla": 1}
    assert relative_error(y, case.run(recurrent_memory)[0]) < 1e-12


def preset(name: str) -> MemorySpec:
    return compose_settings([f"model={name}"]).model.memory.spec()


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_are_mapped(name: str) -> None:
    assert fla.operation(preset(name)) is not None


DEVICE = "cuda"


class Rounded:
    """Inputs of a preset that bfloat16 holds, as leaves; keep-rates before their sigmoid."""

    def __init__(self, spec: MemorySpec, length: int = 150) -> None:
        generator = torch.Generator().manual_seed(0)
        batch, heads, size = 2, 3, 32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).bfloat16().float()

        shape = (batch, length, heads)
        self.spec = spec
        self.leaves = {
            "q": F.normalize(normal(*shape, size), dim=-1).bfloat16().float(),
            "k": F.normalize(normal(*shape, size), dim=-1).bfloat16().float(),
            "v": normal(*shape, size),
            "W1": normal(heads, size, size) / 4,
        }
        if spec.retain in ("scalar", "channel"):
            channels = (size,) if spec.retain == "channel" else ()
            self.leaves["retain"] = normal(*shape, *channels) * 2 + 2
        if spec.objective == "l2":
            # Up to 1.9, where the bounded step acts, and never near 1, where rounding decides.
            rate = 0.1 + 0.8 * torch.rand(shape, generator=generator)
            rate = rate + torch.randint(0, 2, shape, generator=generator)
            self.leaves["rate"] = rate.bfloat16().float()
        self.leaves = {n: x.to(DEVICE).requires_grad_() for n, x in self.leaves.items()}

    def run(self, dtype: torch.dtype, start: int, stop: int, state=None):
        part = {name: x[:, start:stop] for name, x in self.leaves.items() if name != "W1"}
        q, k, v = (part[name].to(dtype) for name in ("q", "k", "v"))
        retain = part["retain"].sigmoid().to(dtype) if "retain" in part else None
        if self.spec.retain == "fixed":
            keep = 1 - torch.exp2(-torch.arange(1.0, 4.0, device=DEVICE))
            retain = keep.to(dtype).expand(*q.shape[:3])
        rate = part["rate"].to(dtype) if "rate" in part else None
        params = MemoryParameters({"W1": self.leaves["W1"]})
        return chunk_memory(self.spec, params, q, k, v, Gates(retain, rate), state)


@pytest.mark.skipif(
    fla.unavailable_reason() is not None,
    reason=f"flash-linear-attention, {fla.unavailable_reason()}",
)
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cuts", [[], [70, 71]], ids=["whole", "parts"])
def test_the_kernels_equal_our_form(
    name: str, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 kernels against our form in float32: within what bfloat16 rounds, gradients too."""
    case = Rounded(preset(name))
    state, parts = None, []
    for start, stop in zip([0, *cuts], [*cuts, 150], strict=True):
        assert fla.applies(case.spec, MemoryParameters({"W1": case.leaves["W1"]}),
                           case.leaves["v"].bfloat16())  # fmt: skip
        y, state = case.run(torch.bfloat16, start, stop, state)
        assert y.dtype == torch.bfloat16
        parts.append(y)
    found = torch.cat(parts, 1).float()
    monkeypatch.setattr(fla, "applies", lambda *arguments: False)
    expected, end = case.run(torch.float32, 0, 150)
    assert relative_error(found, expected) < 2e-2
    weight, wanted_weight = state.weights["W1"], end.weights["W1"]
    assert weight.dtype == torch.float32
    assert relative_error(weight, wanted_weight) < 2e-2
    generator = torch.Generator().manual_seed(1)
    of_y = torch.randn(found.shape, generator=generator).to(DEVICE)
    of_weight = torch.randn(weight.shape, generator=generator).to(DEVICE)
    leaves = list(case.leaves.values())
    grads, wanted = (
        torch.autograd.grad((y * of_y).sum() + (w * of_weight).sum(), leaves)
        for y, w in ((found, weight), (expected, wanted_weight))
    )
    for leaf, grad, right in zip(case.leaves, grads, wanted, strict=True):
        assert relative_error(grad, right) < 3e-2, leaf
