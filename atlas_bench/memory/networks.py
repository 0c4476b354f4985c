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

from atlas_bench.memory.features import feature_dim, initial_feature_scales, random_tables
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
    written. Gradient steps of that size diverge (seen with `momentum` within 128 tokens). W3,
    which multiplies the hidden features, then shares their size with W2.
    """
    inputs = feature_dim(spec, key_dim)
    hidden = spec.expansion * value_dim
    if spec.network == "matrix":
        shapes = {"W1": (heads, value_dim, inputs)}
        deviations = {"W1": inputs**-0.5}
    else:
        up = (heads, hidden, inputs)
        shapes = {"W1": (heads, value_dim, hidden), "W2": up, "W3": up}
        deviations = {"W1": hidden**-0.5, "W2": inputs**-0.5, "W3": inputs**-0.5}
    if spec.optimizer == "muon" and spec.network != "matrix":
        unit = 2 * hidden**-0.5 if spec.network == "mlp" else (4 / hidden) ** 0.25
        deviations = {"W1": 0.3 * hidden**-0.5, "W2": unit, "W3": unit}
    weights = {
        name: torch.randn(shapes[name], generator=generator) * deviations[name]
        for name in spec.weight_names
    }
    return MemoryParameters(
        weights, initial_feature_scales(spec, heads), random_tables(spec, key_dim, generator)
    )


def gelu_slope(x: Tensor) -> Tensor:
    """gelu'(x)."""
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x)


def gelu_bend(x: Tensor) -> Tensor:
    """gelu''(x) = (2 - x^2) exp(-x^2 / 2) / sqrt(2 pi)."""
    square = x * x
    bell = torch.exp(-0.5 * square)
    return square.neg_().add_(2).mul_(bell).mul_(1 / math.sqrt(2 * math.pi))


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = gelu_slope(x)
        ctx.save_for_backward(x, slope)
        return torch.nn.functional.gelu(x), slope

    @staticmethod
    def backward(ctx, grad: Tensor, grad_slope: Tensor) -> Tensor:
        x, slope = ctx.saved_tensors
        return torch.addcmul(grad * slope, grad_slope, gelu_bend(x))


def gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """gelu(x) and its derivative; by hand, because autograd walks through ten tensors for them."""
    return _Gelu.apply(x)


NORM_EPSILON = 1e-6


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Layer norm over the last dimension, and 1 / the deviation it divided by."""
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + NORM_EPSILON)
    return centred * scale, scale


def normalise_backward(grad: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """The gradient of `normalise`'s input. The mean and the deviation depend on the input too:
    the parts of ``grad`` along 1 and along the result drop out."""
    along = (grad * normal).mean(-1, keepdim=True)
    return (grad - grad.mean(-1, keepdim=True) - normal * along) * scale


def gradient_factors(
    spec: MemorySpec, weights: dict[str, Tensor], phi_GJD: Tensor, k_GJK: Tensor, v_GJV: Tensor
) -> tuple[Factors, Tensor]:
    """u_j = d objective_j / d W as (left, right) factors for every weight, at ``weights``, and
    the error d objective_j / d M(k_j), (G, J, V), that they were made from.

    l2: 1/2 ||M(phi(k)) - v||^2 (the 1/2 drops the factor 2). dot: -<M(phi(k)), v>, the sign that
    makes a step down the gradient store v (ATLAS Eq 19 prints it without).
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[name].to(x.dtype).mT

    if spec.network == "matrix":
        error = linear("W1", phi_GJD) - v_GJV if spec.objective == "l2" else -v_GJV
        return {"W1": (error, phi_GJD)}, error
    activated, slope = gelu(linear("W2", phi_GJD))
    multiplier = linear("W3", phi_GJD) if spec.network == "gated_mlp" else None
    hidden = activated if multiplier is None else activated * multiplier
    error = -v_GJV
    if spec.objective == "l2" or spec.branch_norm:
        branch = linear("W1", hidden)
        if spec.branch_norm:
            branch, scale = normalise(branch)
        if spec.objective == "l2":
            error = branch - v_GJV
            if k_GJK.shape[-1] == v_GJV.shape[-1]:
                error = error + k_GJK
    sent = normalise_backward(error, branch, scale) if spec.branch_norm else error
    back = sent @ weights["W1"].to(sent.dtype)
    factors = {"W1": (sent, hidden), "W2": (back * slope, phi_GJD)}
    if multiplier is not None:
        factors["W2"] = (back * multiplier * slope, phi_GJD)
        factors["W3"] = (back * activated, phi_GJD)
    return factors, error


def forward(
    spec: MemorySpec, linear: Linear, phi_GXD: Tensor, q_GXK: Tensor, values: int
) -> Tensor:
    """M(phi(q)): (G, X, V), where ``linear(name, x)`` multiplies by the weights that x sees.

    matrix: W1 phi(q). mlp: q + W1 gelu(W2 phi(q)) (ATLAS Eq 42). gated_mlp: q + W1 (gelu(W2
    phi(q)) * W3 phi(q)) (ATLAS Eq 43). The residual is on the unexpanded query and exists only
    where the key and value sizes agree; with ``branch_norm`` the other term is normalised.
    """
    if spec.network == "matrix":
        return linear("W1", phi_GXD)
    hidden = torch.nn.functional.gelu(linear("W2", phi_GXD))
    if spec.network == "gated_mlp":
        hidden = hidden * linear("W3", phi_GXD)
    output = linear("W1", hidden)
    if spec.branch_norm:
        output = normalise(output)[0]
    return output + q_GXK if q_GXK.shape[-1] == values else output
