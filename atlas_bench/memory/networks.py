"""The inner networks, read and differentiated by hand.

Legend: G = batch x heads (any leading dimensions), J tokens that are learnt from, X tokens that
are read, D features, V value size, F hidden size.

The gradient of the objective for one token is, for every weight of these networks, an outer
product left x right; only the two factors are ever made: (G, J, out) and (G, J, in).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from atlas_bench.memory.features import feature_dim, initial_feature_scales
from atlas_bench.memory.spec import MemoryParameters, MemorySpec

Factors = dict[str, tuple[Tensor, Tensor]]
Linear = Callable[[str, Tensor], Tensor]  # (weight name, x) -> W x


def init_parameters(
    spec: MemorySpec,
    *,
    heads: int,
    key_dim: int,
    value_dim: int,
    generator: Generator | None = None,
) -> MemoryParameters:
    """W_0, float32, and the feature scales at their start. Shapes: MemoryParameters.

    The hidden size is ``expansion * value_dim``; ``generator=None`` draws from torch's own.
    Variances are 1/in. For `muon`, whose updates have the same norm whatever the gradient's, W2
    gives hidden features of about unit norm for a key of unit norm (gelu(x) is near x / 2), so
    that one update writes a whole value, and W1 is small, so that what is read first is what was
    written. Gradient steps of that size diverge (seen with `momentum` within 128 tokens).
    """
    inputs = feature_dim(spec, key_dim)
    hidden = spec.expansion * value_dim
    shapes = {"W1": (heads, value_dim, inputs)}
    deviations = {"W1": inputs**-0.5}
    if spec.network == "mlp":
        shapes = {"W1": (heads, value_dim, hidden), "W2": (heads, hidden, inputs)}
        deviations = {"W1": hidden**-0.5, "W2": inputs**-0.5}
        if spec.optimizer == "muon":
            deviations = {"W1": 0.3 * hidden**-0.5, "W2": 2 * hidden**-0.5}
    weights = {
        name: torch.randn(shape, generator=generator) * deviations[name]
        for name, shape in shapes.items()
    }
    return MemoryParameters(weights, initial_feature_scales(spec, heads))


def gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """gelu(x) and its derivative."""
    cumulative = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    density = torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * cumulative, torch.addcmul(cumulative, x, density)


def gradient_factors(
    spec: MemorySpec, weights: dict[str, Tensor], phi_GJD: Tensor, k_GJK: Tensor, v_GJV: Tensor
) -> Factors:
    """u_j = d objective_j / d W as (left, right) factors for every weight, at ``weights``.

    l2: 1/2 ||M(phi(k)) - v||^2 (the 1/2 drops the factor 2). dot: -<M(phi(k)), v>, the sign that
    makes a step down the gradient store v (ATLAS Eq 19 prints it without).
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[name].to(x.dtype).mT

    if spec.network == "matrix":
        error = linear("W1", phi_GJD) - v_GJV if spec.objective == "l2" else -v_GJV
        return {"W1": (error, phi_GJD)}
    hidden, slope = gelu(linear("W2", phi_GJD))
    if spec.objective == "l2":
        error = linear("W1", hidden) - v_GJV
        if k_GJK.shape[-1] == v_GJV.shape[-1]:
            error = error + k_GJK
    else:
        error = -v_GJV
    back = (error @ weights["W1"].to(error.dtype)) * slope
    return {"W1": (error, hidden), "W2": (back, phi_GJD)}


def forward(
    spec: MemorySpec, linear: Linear, phi_GXD: Tensor, q_GXK: Tensor, values: int
) -> Tensor:
    """M(phi(q)): (G, X, V), where ``linear(name, x)`` multiplies by the weights that x sees.

    matrix: W1 phi(q). mlp: q + W1 gelu(W2 phi(q)) (ATLAS Eq 42); the residual is on the
    unexpanded query and exists only where the key and value sizes agree.
    """
    if spec.network == "matrix":
        return linear("W1", phi_GXD)
    output = linear("W1", torch.nn.functional.gelu(linear("W2", phi_GXD)))
    return output + q_GXK if q_GXK.shape[-1] == values else output
