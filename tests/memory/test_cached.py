"""Memory Caching beside its equations, token by token: outputs, gradients, any cut into calls.

The online memory is the recurrent form; what is cached, gated and read is written out here.
"""

from __future__ import annotations

import pytest
import torch
from helpers import Case, relative_error
from torch import Tensor

from atlas_bench.memory import Gates, MemorySpec, apply_features, recurrent_memory
from atlas_bench.memory.cached import cached_memory, empty_cache

LENGTH, SEGMENT, HEADS, KEY = 21, 8, 2, 3
SPECS = {
    "deltanet": MemorySpec(network="matrix", chunk=1, retain="none", bounded_step=True),
    "titans": MemorySpec(
        network="mlp", optimizer="momentum", rate_inside=True, chunk=4, expansion=2,
        bounded_step=True, bounded_by="network",
    ),
    "normed, of bounded weights": MemorySpec(
        network="mlp", chunk=4, expansion=1, branch_norm=True, branch_norm_affine=True,
        retention="lq",
    ),
    "atlas": MemorySpec(
        network="gated_mlp", optimizer="muon", features="polynomial", window=3, update_every=2,
        chunk=4, expansion=1, newton_schulz_steps=2,
    ),
}  # fmt: skip


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def network(case: Case, weights: dict[str, Tensor], q: Tensor) -> Tensor:
    """M(phi(q)) for q (B, H, K)."""

    def linear(name: str, x: Tensor) -> Tensor:
        weight = weights[name]
        if case.spec.retention == "lq":  # 2504.13173 Eq 24 with q = 4
            weight = weight / ((weight**4).sum((-2, -1), keepdim=True) + 1e-12) ** 0.5
        return torch.einsum("bhoi,bhi->bho", weight, x)

    phi = apply_features(case.spec, case.parameters, q[:, None])[:, 0]
    if case.spec.network == "matrix":
        return linear("W1", phi)
    hidden = gelu(linear("W2", phi))
    if case.spec.network == "gated_mlp":
        hidden = hidden * linear("W3", phi)
    branch = linear("W1", hidden)
    if case.spec.branch_norm:
        gain, bias = case.parameters.norm_gain[:, 0], case.parameters.norm_bias[:, 0]
        branch = torch.nn.functional.layer_norm(branch, branch.shape[-1:], eps=1e-6) * gain + bias
    return q + branch


def by_equations(case: Case, connectors: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """2602.24281 Eq 9 and 10, and the cached memories."""
    state, outputs, ends, means, keys = None, [], [], [], []
    for t in range(LENGTH):
        online, state = case.run(recurrent_memory, t, t + 1, state)
        q, u = case.inputs["q"][:, t], connectors[:, t]
        keys.append(case.inputs["k"][:, t])
        answers = [*(network(case, weights, q) for weights in ends), online[:, 0]]
        summaries = [*means, sum(keys) / len(keys)]
        scores = torch.stack([(u * mean).sum(-1) for mean in summaries])
        gamma = scores.exp() / scores.exp().sum(0)
        outputs.append((gamma[..., None] * torch.stack(answers)).sum(0))
        if len(keys) == SEGMENT:
            ends.append(state.weights)
            means.append(summaries[-1])
            keys = []
    return torch.stack(outputs, 1), ends


def by_cache(case: Case, connectors: Tensor, cuts: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    state, cache, outputs = None, empty_cache(2, HEADS, KEY, connectors), []

    def form(spec, params, q, k, v, gates: Gates, past):
        u = connectors[:, start:end]
        y, memory, after = cached_memory(spec, params, q, k, v, gates, u, SEGMENT, *past)
        return y, (memory, after)

    for start, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        y, (state, cache) = case.run(form, start, end, (state, cache))
        outputs.append(y)
    return torch.cat(outputs, 1), cache.weights


@pytest.mark.parametrize("cuts", [[], [0, 3, 3, 8, 17], list(range(1, LENGTH))])
@pytest.mark.parametrize("name", SPECS)
def test_equals_its_equations(name: str, cuts: list[int]) -> None:
    case = Case(SPECS[name], length=LENGTH)
    generator = torch.Generator().manual_seed(2)
    connectors = 3 * torch.randn(2, LENGTH, HEADS, KEY, generator=generator, dtype=torch.float64)
    connectors.requires_grad_()
    expected, ends = by_equations(case, connectors)
    found, cached = by_cache(case, connectors, cuts)
    assert relative_error(found, expected) < 1e-9
    for weight_name, weights in cached.items():
        wanted = torch.stack([end[weight_name] for end in ends], 1)
        assert relative_error(weights, wanted) < 1e-9
    wanted, ours = (_of(y, connectors) | case.gradients(y) for y in (expected, found))
    for leaf, gradient in wanted.items():
        assert relative_error(ours[leaf], gradient, scale=1e-3) < 1e-9, leaf
    assert wanted["connectors"].abs().max() > 0


def _of(y: Tensor, connectors: Tensor) -> dict[str, Tensor]:
    return {"connectors": torch.autograd.grad(y.square().sum(), connectors, retain_graph=True)[0]}
