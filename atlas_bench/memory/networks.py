"""The inner networks: reading them, and their gradients by hand.

For every weight of these networks the gradient of one token's objective is an outer product
left x right. Only the two factors are formed: (G, J, O) and (G, J, I).

Legend: G = batch x heads (any leading dimensions), H heads, J tokens that are learnt from, X tokens
that read, K key size, D features, V value size, O and I the rows and columns of a weight.
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
    """W_0 in float32 as name -> (H, O, I), the feature scales' first values, and the tables.

    The hidden size is ``expansion * value_dim``. ``generator=None`` draws from torch's own
    generator. Variances are 1/I, except for `muon`, whose updates always have the same norm. There
    W2 gives hidden features of about unit norm for a key of unit norm (gelu(x) is near x / 2), so
    that one update writes a whole value; W1 is small, so that the first reads return what was
    written. W3, which multiplies the hidden features, shares their size with W2. Gradient steps
    diverge from such a start (with `momentum` within 128 tokens).
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
    """gelu(x) and gelu'(x), both differentiable; autograd alone would need ten tensors for them."""
    return _Gelu.apply(x)


NORM_EPSILON = 1e-6


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Layer norm over the last dimension, and one over the standard deviation."""
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + NORM_EPSILON)
    return centred * scale, scale


def normalise_backward(grad: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """The gradient of `normalise`'s input.

    The mean and the deviation depend on the input too, so the parts of ``grad`` along 1 and along
    the result drop out.
    """
    along = (grad * normal).mean(-1, keepdim=True)
    return (grad - grad.mean(-1, keepdim=True) - normal * along) * scale


def gradient_factors(
    spec: MemorySpec, weights: dict[str, Tensor], phi_GJD: Tensor, k_GJK: Tensor, v_GJV: Tensor
) -> tuple[Factors, Tensor]:
    """u_j = d objective_j / d W at ``weights``, as (left, right) factors of every weight.

    Also returns the error d objective_j / d M(k_j), (G, J, V), from which they were made. The
    objective is l2: 1/2 ||M(phi(k)) - v||^2 (the 1/2 cancels the factor 2), or dot:
    -<M(phi(k)), v>. ATLAS Eq 19 prints dot without the minus; with it a step down the gradient
    stores v.
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
    grad_branch = normalise_backward(error, branch, scale) if spec.branch_norm else error
    grad_hidden = grad_branch @ weights["W1"].to(grad_branch.dtype)
    factors = {"W1": (grad_branch, hidden), "W2": (grad_hidden * slope, phi_GJD)}
    if multiplier is not None:
        factors["W2"] = (grad_hidden * multiplier * slope, phi_GJD)
        factors["W3"] = (grad_hidden * activated, phi_GJD)
    return factors, error


def forward(
    spec: MemorySpec, linear: Linear, phi_GXD: Tensor, q_GXK: Tensor, values: int
) -> Tensor:
    """M(phi(q)), (G, X, V); ``linear(name, x)`` multiplies x by the weights that it sees.

    matrix      W1 phi(q)
    mlp         q + W1 gelu(W2 phi(q))                        ATLAS Eq 42
    gated_mlp   q + W1 (gelu(W2 phi(q)) * W3 phi(q))          ATLAS Eq 43

    The residual is the unexpanded query and exists only if keys and values have the same size. With
    ``branch_norm`` the other term is normalised.
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
