"""The bounded step keeps memories finite where plain steps overshoot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from atlas_bench.memory import Gates, MemorySpec, chunk_memory, init_parameters, recurrent_memory
from atlas_bench.memory.bounded import step_overlap
from atlas_bench.memory.networks import forward, gradient_factors


def repeated_keys(spec: MemorySpec, form, *, gain: float = 1.0) -> tuple[Tensor, Tensor]:
    """Outputs and values where every key is the same and every rate is 1; W_0 is ``gain`` times
    the usual."""
    generator, length = torch.Generator().manual_seed(0), 256
    params = init_parameters(spec, heads=1, key_dim=4, value_dim=4, generator=generator)
    params = replace(params, weights={n: gain * w for n, w in params.weights.items()})
    k = torch.nn.functional.normalize(torch.ones(1, length, 1, 4), dim=-1)
    v = torch.randn(1, length, 1, 4, generator=generator)
    gates = Gates(momentum=torch.full((1, length, 1), 0.5))
    y, _ = form(spec, params, k, k, v, gates)
    return y, v


@pytest.mark.parametrize("form", [recurrent_memory, chunk_memory])
def test_a_matrix_survives_repeated_keys_at_high_rates(form) -> None:
    """c = 8, b = 32, rate 1, one key: the step is a contraction, without it nothing is left."""
    largest = {}
    for bounded in (False, True):
        spec = MemorySpec(network="matrix", window=8, chunk=32, retain="none", bounded_step=bounded)
        y, v = repeated_keys(spec, form)
        largest[bounded] = y.abs().max().item()
    assert largest[True] < 2 * v.abs().max()
    assert not largest[False] < 1e6


@pytest.mark.parametrize("network", ["mlp", "gated_mlp"])
def test_a_deep_memory_survives_when_bounded_by_the_network(network: str) -> None:
    largest = {}
    for by in ("keys", "network"):
        spec = MemorySpec(
            network=network, optimizer="momentum", chunk=16, retain="none",
            bounded_step=True, bounded_by=by,
        )  # fmt: skip
        y, v = repeated_keys(spec, chunk_memory, gain=3.0)
        largest[by] = y.abs().max().item()
    assert largest["network"] < 4 * v.abs().max()
    assert not largest["keys"] < 20 * v.abs().max()


@pytest.mark.parametrize(
    ("network", "branch_norm"),
    [("matrix", False), ("mlp", False), ("mlp", True), ("gated_mlp", False), ("gated_mlp", True)],
)
def test_the_overlap_is_how_far_a_step_moves_the_output(network: str, branch_norm: bool) -> None:
    """Its diagonal times |error| is the first-order move along the token's own error."""
    spec = MemorySpec(network=network, branch_norm=branch_norm, expansion=2, bounded_by="network")
    generator = torch.Generator().manual_seed(0)
    start = init_parameters(spec, heads=1, key_dim=4, value_dim=4, generator=generator)
    weights = {name: weight.double() for name, weight in start.weights.items()}
    k, v = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    factors, error = gradient_factors(spec, weights, k, k, v)
    overlap = step_overlap(spec, k, factors, error)
    step = 1e-6

    def output(weights: dict[str, Tensor]) -> Tensor:
        return forward(spec, lambda name, x: x @ weights[name].mT, k, k, 4)

    for token in range(3):
        moved = {
            name: weight - step * left[:, token, :, None] * right[:, token, None]
            for name, weight in weights.items()
            for left, right in [factors[name]]
        }
        change = (output(moved) - output(weights))[0, token] / step
        along = -(change @ error[0, token]) / error[0, token].square().sum()
        assert torch.isclose(overlap[0, token, token], along, rtol=1e-4)
