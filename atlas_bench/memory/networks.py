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
    diverge from such a start (with `momentum` within 128 tokens). With `kl` they are 1: a softmax
    of smaller numbers would make all rows alike. A layer norm starts with gain 1 and bias 0.
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
    if spec.retention == "kl":
        deviations = dict.fromkeys(deviations, 1.0)
    weights = {
        name: torch.randn(shapes[name], generator=generator) * deviations[name]
        for name in spec.weight_names
    }
    affine = spec.branch_norm_affine
    return MemoryParameters(
        weights,
        initial_feature_scales(spec, heads),
        random_tables(spec, key_dim, generator),
        norm_gain=torch.ones(heads, 1, value_dim) if affine else None,
        norm_bias=torch.zeros(heads, 1, value_dim) if affine else None,
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


SIGN_SLOPE = 10.0  # Sign(x) is tanh(SIGN_SLOPE x), and |x| is sqrt(x^2 + SMOOTHING): Miras 5.2
SMOOTHING = 1e-6


def objective_slope(spec: MemorySpec, error_GJV: Tensor, threshold_GJ: Tensor | None) -> Tensor:
    """The gradient of the loss of M(k) - v by M(k): (G, J, V).

    l2      1/2 ||e||^2
    lp      1/p ||e||_p^p, with the smooth |x|                        Miras Eq 10 and 25
    huber   l2 where ||e|| is at most delta, else delta ||e||_1, with the smooth sign; Miras Eq 26

    Like the 1/2, the 1/p cancels a factor that the step would have to undo.
    """
    if spec.objective == "lp":
        return error_GJV * (error_GJV.square() + SMOOTHING).pow(spec.loss_power / 2 - 1)
    if spec.objective == "huber":
        delta = threshold_GJ[..., None].to(error_GJV.dtype)
        near = error_GJV.square().sum(-1, keepdim=True) <= delta.square()
        return torch.where(near, error_GJV, delta * torch.tanh(SIGN_SLOPE * error_GJV))
    return error_GJV


def has_residual(spec: MemorySpec, keys: int, values: int) -> bool:
    """Whether M(x) adds x: two layers do, a matrix with a norm does, if the sizes K, V agree."""
    return keys == values and (spec.network != "matrix" or spec.branch_norm)


def gradient_factors(
    spec: MemorySpec,
    weights: dict[str, Tensor],
    phi_GJD: Tensor,
    k_GJK: Tensor,
    v_GJV: Tensor,
    *,
    gain: Tensor | None = None,
    threshold: Tensor | None = None,
) -> tuple[Factors, Tensor]:
    """u_j = d objective_j / d W at ``weights``, as (left, right) factors of every weight.

    Also returns d objective_j / d M(k_j), (G, J, V), from which they were made. The objective is a
    loss of M(phi(k)) - v (`objective_slope`), or dot: -<M(phi(k)), v>. ATLAS Eq 19 prints dot
    without the minus; with it a step down the gradient stores v. ``gain`` (G or H, 1, V) is that of
    the layer norm, whose bias is already taken from v; ``threshold`` (G, J) is that of `huber`.
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[name].to(x.dtype).mT

    deep, hidden, multiplier = spec.network != "matrix", phi_GJD, None
    if deep:
        activated, slope = gelu(linear("W2", phi_GJD))
        multiplier = linear("W3", phi_GJD) if spec.network == "gated_mlp" else None
        hidden = activated if multiplier is None else activated * multiplier
    gain = None if gain is None else gain.to(v_GJV.dtype)
    error = -v_GJV
    if spec.objective != "dot" or spec.branch_norm:
        branch = linear("W1", hidden)
        if spec.branch_norm:
            normal, scale = normalise(branch)
            branch = normal if gain is None else normal * gain
        if spec.objective != "dot":
            error = branch - v_GJV
            if has_residual(spec, k_GJK.shape[-1], v_GJV.shape[-1]):
                error = error + k_GJK
            error = objective_slope(spec, error, threshold)
    grad_branch = error
    if spec.branch_norm:
        grad_normal = error if gain is None else error * gain
        grad_branch = normalise_backward(grad_normal, normal, scale)
    factors = {"W1": (grad_branch, hidden)}
    if not deep:
        return factors, error
    grad_hidden = grad_branch @ weights["W1"].to(grad_branch.dtype)
    factors["W2"] = (grad_hidden * slope, phi_GJD)
    if multiplier is not None:
        factors["W2"] = (grad_hidden * multiplier * slope, phi_GJD)
        factors["W3"] = (grad_hidden * activated, phi_GJD)
    return factors, error


def forward(
    spec: MemorySpec,
    linear: Linear,
    phi_GXD: Tensor,
    q_GXK: Tensor,
    values: int,
    *,
    gain: Tensor | None = None,
) -> Tensor:
    """M(phi(q)), (G, X, V); ``linear(name, x)`` multiplies x by the weights that it sees.

    matrix      W1 phi(q); with ``branch_norm`` q + LN(W1 phi(q))       TTT section 2.7
    mlp         q + W1 gelu(W2 phi(q))                                  ATLAS Eq 42
    gated_mlp   q + W1 (gelu(W2 phi(q)) * W3 phi(q))                    ATLAS Eq 43

    The residual is the unexpanded query and exists only if keys and values have the same size. With
    ``branch_norm`` the other term is normalised, and multiplied by ``gain`` (G or H, 1, V). The
    norm's bias is left to the caller, who adds it to the result.
    """
    hidden = phi_GXD
    if spec.network != "matrix":
        hidden = torch.nn.functional.gelu(linear("W2", phi_GXD))
        if spec.network == "gated_mlp":
            hidden = hidden * linear("W3", phi_GXD)
    output = linear("W1", hidden)
    if spec.branch_norm:
        output = normalise(output)[0]
        output = output if gain is None else output * gain.to(output.dtype)
    return output + q_GXK if has_residual(spec, q_GXK.shape[-1], values) else output
