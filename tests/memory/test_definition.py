"""memory.md tests 1, 5, 6 and 7: the reference is what the papers' equations say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import Case, relative_error, spec_strategy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from atlas_bench.memory import (
    Gates,
    MemoryParameters,
    MemorySpec,
    apply_features,
    chunk_memory,
    init_parameters,
    recurrent_memory,
)
from atlas_bench.memory.networks import NORM_EPSILON
from atlas_bench.memory.newton_schulz import newton_schulz

Norm = dict[str, Tensor]  # gain and bias (H, 1, V), or empty


def network(
    spec: MemorySpec, weights: dict[str, Tensor], phi: Tensor, x: Tensor, norm: Norm
) -> Tensor:
    """M(phi(x)) written once more, on its own: weights (B, H, O, I), phi (B, H, I)."""
    if spec.network == "matrix":
        y = torch.einsum("bhoi,bhi->bho", weights["W1"], phi)
        if not spec.branch_norm:
            return y
    else:
        hidden = torch.nn.functional.gelu(torch.einsum("bhoi,bhi->bho", weights["W2"], phi))
        if spec.network == "gated_mlp":
            hidden = hidden * torch.einsum("bhoi,bhi->bho", weights["W3"], phi)
        y = torch.einsum("bhoi,bhi->bho", weights["W1"], hidden)
    if spec.branch_norm:
        y = torch.nn.functional.layer_norm(y, y.shape[-1:], eps=NORM_EPSILON)
        if norm:
            y = y * norm["norm_gain"][:, 0] + norm["norm_bias"][:, 0]
    return y + x if x.shape[-1] == y.shape[-1] else y


def objective(
    spec: MemorySpec,
    weights: dict[str, Tensor],
    phi: Tensor,
    k: Tensor,
    v: Tensor,
    norm: Norm,
    threshold: Tensor,
) -> Tensor:
    out = network(spec, weights, phi, k, norm)
    error = out - v
    if spec.objective == "dot":
        return -(out * v).sum(-1)
    if spec.objective == "lp":
        smooth = torch.sqrt(error**2 + 1e-6)  # |x| of Miras, section 5.2
        return (smooth**spec.loss_power).sum(-1) / spec.loss_power
    near = 0.5 * error.square().sum(-1)
    if spec.objective == "l2":
        return near
    sharp = (10 * error).abs()
    log_cosh = sharp + torch.log1p(torch.exp(-2 * sharp))  # plus log 1/2; d/dx = tanh(x)
    far = threshold * log_cosh.sum(-1) / 10
    return torch.where(error.norm(dim=-1) <= threshold, near, far)


def seen(spec: MemorySpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are read, W = R(A), (B, H, O, I)."""
    if spec.retention == "lq":
        norms = {n: w.flatten(-2).norm(p=4, dim=-1)[..., None, None] for n, w in weights.items()}
        return {n: w / norms[n] ** 2 for n, w in weights.items()}
    if spec.retention == "kl":
        logs = {n: w - w.logsumexp(-1, keepdim=True) for n, w in weights.items()}
        return {n: w.shape[-1] * w.exp() for n, w in logs.items()}
    return weights


@pytest.mark.parametrize(
    ("network_name", "branch_norm"),
    [(name, norm) for name in ("matrix", "mlp", "gated_mlp") for norm in (False, True)],
)
@pytest.mark.parametrize("features", ["identity", "polynomial", "sketch"])
@pytest.mark.parametrize("loss", ["l2", "dot"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "muon"])
@pytest.mark.parametrize("value_dim", [3, 4])
def test_reference_is_autograd_of_the_objective(
    network_name: str, branch_norm: bool, features: str, loss: str, optimizer: str, value_dim: int
) -> None:
    """Test 1, on a grid."""
    spec = MemorySpec(
        network=network_name, features=features, objective=loss, optimizer=optimizer,
        window=3, chunk=1, expansion=2, branch_norm=branch_norm, sketch_size=6,
    )  # fmt: skip
    assert_is_autograd(spec, value_dim)


@given(spec=spec_strategy(), value_dim=st.sampled_from([3, 4]))
def test_reference_is_autograd_for_random_members(spec: MemorySpec, value_dim: int) -> None:
    """Test 1, for random members at b = 1, every token."""
    assert_is_autograd(replace(spec, chunk=1, update_every=1, bounded_step=False), value_dim)


def assert_is_autograd(spec: MemorySpec, value_dim: int) -> None:
    """The reference equals the recurrence with autograd instead of the hand-written gradient."""
    case = Case(spec, length=7, value_dim=value_dim)
    norm = {name: tensor.detach() for name, tensor in case.norm.items()}
    y, state = case.run(recurrent_memory)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    if spec.gate == "hard_sigmoid":
        x["rate"] = torch.nn.functional.hardsigmoid(x["rate"])
    unused = {"rate": spec.rate_inside, "retain": spec.retain == "none"}
    x |= {name: torch.ones_like(x[name]) for name, is_unused in unused.items() if is_unused}
    params = case.parameters
    phi_k, phi_q = apply_features(spec, params, x["k"]), apply_features(spec, params, x["q"])
    batch = x["q"].shape[0]
    weights = {n: w.detach().expand(batch, *w.shape).clone() for n, w in case.weights.items()}
    momentum = {n: torch.zeros_like(w) for n, w in weights.items()}
    how = (spec.newton_schulz_steps, spec.newton_schulz_coefficients)
    for t in range(7):
        leaves = {n: w.clone().requires_grad_() for n, w in seen(spec, weights).items()}
        total = 0.0
        for i in range(max(0, t - spec.window + 1), t + 1):
            pair = spec.window_weights == "pair"
            weight = x["weight"][:, t, :, t - i] if pair else x["weight"][:, i]
            token = (phi_k[:, i], x["k"][:, i], x["v"][:, i], norm, x["threshold"][:, i])
            error = objective(spec, leaves, *token)
            total = total + (weight * error).sum()
        gradient = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))

        def gate(name: str, t: int = t) -> Tensor:
            at = x[name][:, t]
            return at[..., None, :] if at.dim() == 3 else at[..., None, None]

        if spec.optimizer == "gd":
            momentum = gradient
        else:
            momentum = {n: gate("momentum") * momentum[n] + gradient[n] for n in gradient}
        step = momentum
        if spec.optimizer == "muon":
            step = {n: newton_schulz(m, *how) for n, m in momentum.items()}
        weights = {n: gate("retain") * weights[n] - gate("rate") * step[n] for n in weights}
        expected = network(spec, seen(spec, weights), phi_q[:, t], x["q"][:, t], norm)
        assert relative_error(y[:, t], expected) < 1e-10
    for name, weight in weights.items():
        assert relative_error(state.weights[name], weight) < 1e-10


@pytest.mark.parametrize("form", [recurrent_memory, chunk_memory])
def test_titans(form) -> None:
    """S_t = eta S - theta grad, M_t = (1 - alpha) M + S (Titans Eq 13-14), for a linear memory."""
    spec = MemorySpec(network="matrix", optimizer="momentum", rate_inside=True, chunk=1)
    case = Case(spec, length=8)
    with torch.no_grad():
        case.inputs["weight"] *= 3  # the step may exceed 1
    y, _ = case.run(form)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    memory = case.weights["W1"].detach().expand(2, -1, -1, -1)
    surprise = torch.zeros_like(memory)
    for t in range(8):
        k, v = x["k"][:, t], x["v"][:, t]
        error = torch.einsum("bhvk,bhk->bhv", memory, k) - v
        gradient = error[..., :, None] * k[..., None, :]
        theta, eta = x["weight"][:, t, :, None, None], x["momentum"][:, t, :, None, None]
        surprise = eta * surprise - theta * gradient
        memory = x["retain"][:, t, :, None, None] * memory + surprise
        expected = torch.einsum("bhvk,bhk->bhv", memory, x["q"][:, t])
        assert relative_error(y[:, t], expected) < 1e-10


@pytest.mark.parametrize("form", [recurrent_memory, chunk_memory])
def test_gated_delta_rule(form) -> None:
    """Matrix, l2, c = 1, b = 1: M_t = M (alpha - beta k k') + beta v k', at alpha M of Eq 11."""
    spec = MemorySpec(network="matrix", optimizer="gd", chunk=1)
    case = Case(spec, length=8)
    y, _ = case.run(form)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    memory = case.weights["W1"].detach().expand(2, -1, -1, -1)
    for t in range(8):
        k, v = x["k"][:, t, :, None, :], x["v"][:, t, :, :, None]
        beta = (x["rate"] * x["weight"])[:, t, :, None, None]
        alpha = x["retain"][:, t, :, None, None]
        memory = alpha * memory - beta * (memory @ k.mT) @ k + beta * v @ k
        assert relative_error(y[:, t], (memory @ x["q"][:, t, :, :, None])[..., 0]) < 1e-10


@pytest.mark.parametrize("chunk", [1, 4])
def test_linear_attention(chunk: int) -> None:
    """Matrix, dot, no decay, W_0 = 0: y_t = sum of (q_t.k_i) v_i; with decay, gated."""
    spec = MemorySpec(network="matrix", objective="dot", optimizer="gd", chunk=chunk)
    case = Case(spec, length=9)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    with torch.no_grad():
        case.weights["W1"].zero_()
    y, _ = case.run(chunk_memory)
    decay = torch.ones(2, 9, 9, 2, dtype=torch.float64)
    for t in range(9):
        for i in range(t):
            decay[:, t, i] = x["retain"][:, i + 1 : t + 1].prod(1)
    scores = (
        torch.einsum("bthk,bihk->btih", x["q"], x["k"])
        * decay
        * torch.ones(9, 9).tril()[None, :, :, None]
    )
    scores = scores * (x["rate"] * x["weight"])[:, None]
    assert relative_error(y, torch.einsum("btih,bihv->bthv", scores, x["v"])) < 1e-10


def test_gated_linear_attention_per_feature() -> None:
    """S_t = S_(t-1) diag(alpha_t) + v_t k_t' (2312.06635 Eq 3), keep-rates of 0 included."""
    spec = MemorySpec(network="matrix", objective="dot", retain="channel", chunk=4)
    case = Case(spec, length=11)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    x["retain"][:, 5, 0, 1] = 0.0
    y, _ = chunk_memory(
        spec, case.parameters, x["q"], x["k"], x["v"], Gates(retain=x["retain"], rate=x["rate"])
    )
    memory = case.weights["W1"].detach().expand(2, -1, -1, -1)
    for t in range(11):
        written = x["rate"][:, t, :, None, None] * x["v"][:, t, :, :, None] * x["k"][:, t, :, None]
        memory = memory * x["retain"][:, t, :, None] + written
        expected = torch.einsum("bhvk,bhk->bhv", memory, x["q"][:, t])
        assert relative_error(y[:, t], expected) < 1e-10


@pytest.mark.parametrize("features", ["polynomial", "taylor"])
def test_the_series_of_exp_is_softmax_attention_without_denominator(features: str) -> None:
    """phi of degree 14 with a_i = 1/i! is exp to 1e-10 for unit vectors (ATLAS Eq 26)."""
    spec = MemorySpec(
        network="matrix", objective="dot", optimizer="gd", features=features, degree=14,
        retain="none", chunk=4,
    )  # fmt: skip
    case = Case(spec, length=9)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    with torch.no_grad():
        case.weights["W1"].zero_()
    y, _ = chunk_memory(spec, case.parameters, x["q"], x["k"], x["v"], Gates())
    scores = torch.einsum("bthk,bihk->btih", x["q"], x["k"]).exp()
    scores = scores * torch.ones(9, 9).tril()[None, :, :, None]
    assert relative_error(y, torch.einsum("btih,bihv->bthv", scores, x["v"])) < 1e-8


@pytest.mark.parametrize("network_name", ["matrix", "mlp"])
@pytest.mark.parametrize("loss", ["l2", "dot"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "muon"])
def test_one_update_lowers_the_windows_loss(network_name: str, loss: str, optimizer: str) -> None:
    """A sign error, as in ATLAS Table 1, would raise it."""
    length = 4
    spec = MemorySpec(
        network=network_name, objective=loss, optimizer=optimizer, window=length,
        update_every=length, chunk=length, retain="none",
    )  # fmt: skip
    case = Case(spec, length=length, rate=0.02)
    x = {name: tensor.detach() for name, tensor in case.inputs.items()}
    _, state = case.run(recurrent_memory)

    def loss_at(weights: dict[str, Tensor]) -> Tensor:
        phi = apply_features(spec, case.parameters, x["k"])
        per_token = [
            x["weight"][:, i]
            * objective(spec, weights, phi[:, i], x["k"][:, i], x["v"][:, i], {}, x["weight"])
            for i in range(length)
        ]
        return sum(per_token)

    before = loss_at({n: w.expand(2, *w.shape) for n, w in case.weights.items()})
    assert (loss_at(state.weights) < before).all()


@given(degree=st.integers(1, 4), key_dim=st.integers(1, 5), constant=st.booleans())
def test_polynomial_features_are_the_kernel(degree: int, key_dim: int, constant: bool) -> None:
    spec = MemorySpec(features="polynomial", degree=degree, constant_feature=constant)
    generator = torch.Generator().manual_seed(degree)
    start = init_parameters(spec, heads=2, key_dim=key_dim, value_dim=2, generator=generator)
    scales = start.feature_scales.double() * torch.rand(2, degree + 1, generator=generator)
    params = MemoryParameters(start.to(torch.float64).weights, scales)
    q, k = torch.randn(2, 1, 3, 2, key_dim, dtype=torch.float64, generator=generator)
    phi_q, phi_k = apply_features(spec, params, q), apply_features(spec, params, k)
    assert phi_q.shape[-1] == math.comb(key_dim + degree, degree) - (not constant)
    powers = (q * k).sum(-1, keepdim=True) ** torch.arange(degree + 1)
    first = 0 if constant else 1
    expected = (params.coefficients * powers)[..., first:].sum(-1)
    assert torch.allclose((phi_q * phi_k).sum(-1), expected, rtol=1e-12, atol=1e-12)


def test_sketched_features_are_the_kernel_on_average() -> None:
    """Over 400 draws of the tables; degrees 0 and 1 are exact in every one of them."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.nn.functional.normalize(
        torch.randn(2, 1, 5, 1, 6, dtype=torch.float64, generator=generator), dim=-1
    )
    products = []
    for _ in range(400):
        spec = MemorySpec(features="sketch", degree=3, sketch_size=32)
        start = init_parameters(spec, heads=1, key_dim=6, value_dim=2, generator=generator)
        params = start.to(torch.float64)
        phi_q, phi_k = apply_features(spec, params, q), apply_features(spec, params, k)
        assert phi_q.shape[-1] == 1 + 6 + 2 * 32
        exact = (phi_q[..., :7] * phi_k[..., :7]).sum(-1)
        torch.testing.assert_close(exact, 1 + (q * k).sum(-1))
        products.append((phi_q * phi_k).sum(-1))
    mean, error = torch.stack(products).mean(0), torch.stack(products).std(0) / 20
    x = (q * k).sum(-1)
    assert ((mean - (1 + x + x**2 / 2 + x**3 / 6)).abs() < 4 * error).all()
    assert error.max() < 0.01


@pytest.mark.parametrize("shape", [(3, 12, 30), (3, 30, 12), (3, 12, 12)])
@pytest.mark.parametrize(
    ("coefficients", "steps", "low", "high"),
    [("jordan", 5, 0.65, 1.25), ("polar_express", 7, 0.99, 1.01)],
)
def test_newton_schulz_band(
    shape: tuple[int, ...], coefficients: str, steps: int, low: float, high: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(*shape[:2], 12, dtype=torch.float64, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(3, shape[2], 12, dtype=torch.float64, generator=generator))[
        0
    ]
    singular = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    values = torch.linalg.svdvals(newton_schulz((left * singular) @ right.mT, steps, coefficients))
    assert low < values.min()
    assert values.max() < high
    deficient = left[..., :4] @ right[..., :4].mT
    values = torch.linalg.svdvals(newton_schulz(deficient, steps, coefficients))
    assert low < values[:, :4].min()
    assert values[:, :4].max() < high
    assert values[:, 4:].max() < 1e-6


def test_newton_schulz_of_zero_and_its_gradient() -> None:
    zero = torch.zeros(2, 3, 5, dtype=torch.float64, requires_grad=True)
    y = newton_schulz(zero)
    y.sum().backward()
    assert y.abs().max() == 0
    assert torch.isfinite(zero.grad).all()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: newton_schulz(t, 3), x)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("network", "mlpp", "did you mean mlp"),
        ("window", 0, "at least 1"),
        ("update_every", 5, "memory.window=1 is smaller than memory.update_every=5"),
        ("newton_schulz_steps", -1, "must not be negative"),
        ("retain", "channel", "is defined for memory.network=matrix"),
        ("loss_power", 0.5, "memory.loss_power=0.5 must be at least 1"),
        ("retention_power", 1.5, "memory.retention_power=1.5 must be at least 2"),
        ("branch_norm_affine", True, "set memory.branch_norm=true"),
    ],
)
def test_impossible_specs_name_the_field(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemorySpec(**{field: value})
    with pytest.raises(ValueError, match="memory.chunk=16 is not a multiple"):
        MemorySpec(window=5, update_every=5)


@pytest.mark.parametrize("other", [{"objective": "huber"}, {"retention": "kl"}])
def test_mirass_losses_and_retentions_need_plain_steps(other: dict[str, str]) -> None:
    (name, value), *_ = other.items()
    with pytest.raises(ValueError, match=f"memory.{name}={value} is defined for memory.optimizer"):
        MemorySpec(optimizer="muon", **other)
    with pytest.raises(ValueError, match="memory.retention=lq bounds the weights itself"):
        MemorySpec(retention="lq", bounded_step=True)


def test_a_shape_that_does_not_fit_is_refused() -> None:
    case = Case(MemorySpec(optimizer="momentum"), length=3)
    x = case.inputs
    with pytest.raises(ValueError, match=r"needs gates\.momentum"):
        chunk_memory(case.spec, case.parameters, x["q"], x["k"], x["v"], Gates())
    with pytest.raises(ValueError, match=r"gates\.rate must be"):
        chunk_memory(
            case.spec,
            case.parameters,
            x["q"],
            x["k"],
            x["v"],
            Gates(rate=x["rate"][:1], momentum=x["momentum"]),
        )
    with pytest.raises(ValueError, match="alike"):
        chunk_memory(
            case.spec, case.parameters, x["q"][:, :2], x["k"], x["v"], Gates(momentum=x["momentum"])
        )


def test_what_is_kept_of_the_features_serves_evaluation_and_training() -> None:
    """A first call in inference mode, as where a checkpoint is evaluated, then one of training."""
    spec = MemorySpec(features="polynomial", degree=3)
    case = Case(spec, length=4, key_dim=5)  # sizes that no other test has kept
    with torch.inference_mode():
        case.run(recurrent_memory)
    y, _ = case.run(recurrent_memory)
    assert all(torch.isfinite(grad).all() for grad in case.gradients(y).values())
