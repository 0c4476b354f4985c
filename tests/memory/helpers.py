"""Random members of the memory family, with inputs that exercise every gate."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from atlas_bench.memory import Gates, MemoryParameters, MemorySpec, init_parameters
from atlas_bench.memory.features import feature_dim


def spec_strategy() -> st.SearchStrategy[MemorySpec]:
    """Every field of the spec, in combinations that are valid."""

    @st.composite
    def build(draw: st.DrawFn) -> MemorySpec:
        every = draw(st.sampled_from([1, 1, 2, 3]))
        network = draw(st.sampled_from(["matrix", "mlp", "gated_mlp"]))
        optimizer = draw(st.sampled_from(["gd", "momentum", "muon"]))
        bounded = draw(st.booleans())
        retains = ["none", "scalar", "fixed"]
        if network == "matrix" and optimizer != "muon" and not bounded:
            retains += ["channel", "channel"]
        retain = draw(st.sampled_from(retains))
        plain = optimizer == "muon" or retain == "channel"
        branch_norm = retain != "channel" and draw(st.booleans())
        objectives = ["l2", "l2", "dot", "lp"] + ["huber"] * (not plain)
        retentions = ["l2", "l2", "lq", "kl"] if not plain and not bounded else ["l2"]
        return MemorySpec(
            network=network,
            features=draw(st.sampled_from(["identity", "polynomial", "taylor", "sketch"])),
            sketch_size=5,
            branch_norm=branch_norm,
            branch_norm_affine=branch_norm and not plain and draw(st.booleans()),
            degree=draw(st.sampled_from([1, 2, 3])),
            constant_feature=draw(st.booleans()),
            objective=draw(st.sampled_from(objectives)),
            loss_power=draw(st.sampled_from([1.5, 3.0])),
            retention=draw(st.sampled_from(retentions)),
            window=every + draw(st.sampled_from([0, 1, 3, 8])),
            window_weights=draw(st.sampled_from(["token", "pair"])),
            optimizer=optimizer,
            update_every=every,
            chunk=every * draw(st.sampled_from([1, 2, 3])),
            retain=retain,
            # An orthogonalised step of 1 a token is chaos: one such spec is tested by name.
            rate_inside=optimizer != "muon" and draw(st.booleans()),
            gate=draw(st.sampled_from(["sigmoid", "hard_sigmoid"])),
            bounded_step=bounded,
            bounded_by=draw(st.sampled_from(["keys", "network"])),
            expansion=draw(st.sampled_from([1, 2])),
            newton_schulz_steps=draw(st.sampled_from([1, 3])),
        )

    return build()


class Case:
    """Parameters, inputs and gates in float64 for one spec; ``leaves`` all require gradients.

    With ``gate='hard_sigmoid'`` ``inputs['rate']`` is the gate's input, and many tokens have a rate
    of exactly 0, which the chunk-parallel form may leave out.
    """

    def __init__(
        self,
        spec: MemorySpec,
        *,
        length: int,
        key_dim: int = 3,
        value_dim: int = 3,
        seed: int = 0,
        rate: float = 0.3,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        batch, heads = 2, 2

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def gate(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        self.spec = spec
        start = init_parameters(
            spec, heads=heads, key_dim=key_dim, value_dim=value_dim, generator=generator
        ).to(torch.float64)
        shape = (batch, length, heads)
        pair = (spec.window,) if spec.window_weights == "pair" else ()
        features = feature_dim(spec, key_dim)
        channels = (features,) if spec.retain == "channel" else ()
        self.inputs = {
            "q": torch.nn.functional.normalize(normal(*shape, key_dim), dim=-1),
            "k": torch.nn.functional.normalize(normal(*shape, key_dim), dim=-1),
            "v": normal(*shape, value_dim),
            "retain": 0.5 + 0.5 * gate(*shape, *channels),
            "rate": rate * gate(*shape),
            "momentum": gate(*shape),
            "threshold": 0.5 + 2 * gate(*shape),
            # Steps that do not diverge: large windows add up, and inside the weight is the step.
            "weight": gate(*shape, *pair)
            * min(1.0, 3 / spec.window)
            * (rate if spec.rate_inside else 1.0),
        }
        if spec.gate == "hard_sigmoid":  # long runs are closed, at different times in every head
            closed = torch.zeros(shape, dtype=torch.bool)
            closed[0, length // 4 :, 0] = closed[:, length // 2 :, 1] = True
            self.inputs["rate"][closed] -= 4.0
        self.weights = start.weights
        self.scales, self.tables = start.feature_scales, start.tables
        self.norm = {}
        if spec.branch_norm_affine:
            for name in ("norm_gain", "norm_bias"):
                self.norm[name] = 0.5 + gate(heads, 1, value_dim)
        for tensor in self.leaves.values():
            tensor.requires_grad_()

    @property
    def leaves(self) -> dict[str, Tensor]:
        named = self.inputs | self.weights | self.norm
        if self.spec.objective != "huber":  # which alone uses it
            named.pop("threshold")
        return named if self.scales is None else named | {"feature_scales": self.scales}

    @property
    def parameters(self) -> MemoryParameters:
        return MemoryParameters(self.weights, self.scales, self.tables, **self.norm)

    def run(self, form, start: int = 0, end: int | None = None, state=None):
        """``form`` is `recurrent_memory` or `chunk_memory`; tokens start..end of the case."""
        part = {name: tensor[:, start:end] for name, tensor in self.inputs.items()}
        rate = part["rate"]
        if self.spec.gate == "hard_sigmoid":
            rate = ((rate + 3) / 6).clamp(0, 1)  # CUDA's hardsigmoid has 1/6 in float32
        gates = Gates(part["retain"], rate, part["momentum"], part["weight"], part["threshold"])
        return form(self.spec, self.parameters, part["q"], part["k"], part["v"], gates, state)

    def gradients(self, y: Tensor) -> dict[str, Tensor]:
        """d (y . fixed random weights) / d every leaf; zeros for what does not matter."""
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        grads = torch.autograd.grad(
            (y * weights).sum(), list(self.leaves.values()), allow_unused=True
        )
        return {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(self.leaves.items(), grads, strict=True)
        }


def relative_error(result: Tensor, expected: Tensor, scale: float = 0.0) -> float:
    """||result - expected|| over ||expected||, or over ``scale`` if that is larger."""
    return ((result - expected).norm() / max(expected.norm().item(), scale, 1e-30)).item()
