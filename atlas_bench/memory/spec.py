"""The point in the memory family that a layer uses, and the tensors that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from atlas_bench.naming import nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "network": ("matrix", "mlp", "gated_mlp"),
    "features": ("identity", "polynomial", "taylor", "sketch"),
    "objective": ("l2", "dot"),
    "window_weights": ("token", "pair"),
    "optimizer": ("gd", "momentum", "muon"),
    "retain": ("none", "scalar", "channel", "fixed"),
    "gate": ("sigmoid", "hard_sigmoid"),
    "bounded_by": ("keys", "network"),
    "newton_schulz_coefficients": ("jordan", "polar_express"),
}


@dataclass(frozen=True)
class MemorySpec:
    """One member of the family of test-time memories (ATLAS Eq 8-16, 32-33; Titans Eq 13-14).

    ``rate_inside`` puts the step inside the momentum: the window weight carries it and the rate
    gate is not used (eta = 1). ``retain='fixed'`` is a keep-rate that does not depend on the
    token; to this package it is the same tensor as ``scalar``. ``channel`` has one for every
    feature, which only the input side of a `matrix` has a place for. ``branch_norm`` normalises
    what is added to the residual (TTT's LN, 2407.04620), without a gain of its own.

    Raises ValueError, with the field's name, for a value outside the family.
    """

    network: str = "mlp"  # M: a matrix, two layers, or two with a gate
    features: str = "identity"  # phi, of keys and queries
    degree: int = 2  # of polynomial, taylor and sketch
    constant_feature: bool = True  # whether phi has the degree-0 monomial a_0
    objective: str = "l2"  # what an update lowers: the squared error, or minus the dot product
    window: int = 1  # c: the last tokens that an update learns
    window_weights: str = "token"  # gamma of a token, or of a token and the update
    optimizer: str = "gd"  # of the memory
    update_every: int = 1  # tokens between two updates
    chunk: int = 16  # b: tokens whose gradients are taken at the weights before them
    retain: str = "scalar"  # alpha, the keep-rate
    rate_inside: bool = False  # whether the step is inside the momentum (Titans)
    gate: str = "sigmoid"  # hard_sigmoid reaches 0 exactly
    bounded_step: bool = False  # whether what a chunk writes is held below what its keys bear
    bounded_by: str = "keys"  # what the bounded step is measured by: memory/bounded.py
    expansion: int = 4  # hidden features of a network, in widths of a value
    branch_norm: bool = False  # layer norm of what is added to the residual
    sketch_size: int = 256  # of `sketch`: features a degree above 1
    newton_schulz_steps: int = 5  # of muon
    newton_schulz_coefficients: str = "jordan"  # of muon

    def __post_init__(self) -> None:
        for name, valid in CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                raise ValueError(
                    f"memory.{name}={value} is not one of {', '.join(valid)}{nearest(value, valid)}"
                )
        for name in ("degree", "window", "update_every", "chunk", "expansion", "sketch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"memory.{name}={getattr(self, name)} must be at least 1")
        if self.newton_schulz_steps < 0:
            raise ValueError(
                f"memory.newton_schulz_steps={self.newton_schulz_steps} must not be negative"
            )
        if self.branch_norm and self.network == "matrix":
            raise ValueError(
                "memory.branch_norm=true needs a branch beside the residual; use "
                "memory.network=mlp or gated_mlp"
            )
        if self.retain == "channel" and (
            self.network != "matrix" or self.optimizer == "muon" or self.bounded_step
        ):
            raise ValueError(
                "memory.retain=channel is defined for memory.network=matrix with "
                "memory.optimizer=gd or momentum and memory.bounded_step=false; use "
                "memory.retain=scalar with the others"
            )
        if self.window < self.update_every:
            raise ValueError(
                f"memory.window={self.window} is smaller than memory.update_every="
                f"{self.update_every}: tokens between two updates would never be learnt; "
                f"use a window of at least {self.update_every}"
            )
        if self.chunk % self.update_every:
            raise ValueError(
                f"memory.chunk={self.chunk} is not a multiple of memory.update_every="
                f"{self.update_every}; use {_next_multiple(self.chunk, self.update_every)}"
            )

    @property
    def has_momentum(self) -> bool:
        return self.optimizer != "gd"

    @property
    def is_bounded(self) -> bool:
        """Whether the safeguard acts; `muon` needs none, its updates have a bounded norm."""
        return self.bounded_step and self.optimizer != "muon"

    @property
    def weight_names(self) -> tuple[str, ...]:
        return {"matrix": ("W1",), "mlp": ("W1", "W2")}.get(self.network, ("W1", "W2", "W3"))

    @property
    def is_delta_rule(self) -> bool:
        """(Gated) DeltaNet: a matrix whose exact recurrence has a closed form over many tokens."""
        return (
            self.network == "matrix"
            and self.objective == "l2"
            and self.optimizer == "gd"
            and self.window == self.chunk == 1
            and self.retain != "channel"
        )


def _next_multiple(value: int, of: int) -> int:
    return -(-value // of) * of


@dataclass(frozen=True)
class Gates:
    """The data-dependent gates, after their squashing function.

    ``retain`` (alpha), ``rate`` (eta) and ``momentum`` (theta): (B, T, H), but ``retain`` is
    (B, T, H, D) with ``retain='channel'``. ``weight`` (gamma): (B, T, H), or (B, T, H, c) with
    ``window_weights='pair'``, where ``weight[:, t, :, lag]`` weighs token t - lag. What is left
    out is 1, except that ``momentum`` must be given to an optimizer which has it.
    """

    retain: Tensor | None = None
    rate: Tensor | None = None
    momentum: Tensor | None = None
    weight: Tensor | None = None


@dataclass(frozen=True)
class MemoryParameters:
    """What the outer loop learns, the initial memory W_0 and the feature scales, and tables.

    ``weights``: name -> (H, out, in). ``feature_scales``: (H, degree + 1) or None; degree i of
    the polynomial kernel has the coefficient a_i = feature_scales[:, i]**2, so that a_i >= 0.
    ``tables``: the random signs of `sketch`, (degree, d_k, sketch_size), not learnt; or None.
    """

    weights: dict[str, Tensor]
    feature_scales: Tensor | None = None
    tables: Tensor | None = None

    @property
    def coefficients(self) -> Tensor | None:
        """a_i of the kernel, (H, degree + 1)."""
        return None if self.feature_scales is None else self.feature_scales.square()

    def to(self, dtype: torch.dtype) -> MemoryParameters:
        scales = None if self.feature_scales is None else self.feature_scales.to(dtype)
        tables = None if self.tables is None else self.tables.to(dtype)
        return MemoryParameters({n: w.to(dtype) for n, w in self.weights.items()}, scales, tables)


@dataclass(frozen=True)
class MemoryState:
    """Everything the past left behind; its size does not depend on the number of tokens.

    weights    name -> (B, H, out, in), W_t. Inside a chunk of a bounded memory these are the
               weights before the safeguard, which acts on what is read and at the chunk's end.
    momentum   name -> the same shapes, S_t; empty for `gd`.
    reference  name -> the same shapes, W_t', where gradients are taken.
    position   tokens read so far; its remainder is the place inside the chunk.
    recent     the last tokens' inputs: k, v (B, H, m, d) and gates (B, H, m) or (B, H, m, c);
               m = c - 1, and the chunk's tokens too where the step is bounded.
    applied, applied_momentum   (B, H, m), bounded step only: the coefficients that the gradients
               of the recent tokens have in W_t and S_t. retained (B, H): the chunk's keep-rate.
    """

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    reference: dict[str, Tensor]
    position: int
    recent: dict[str, Tensor] = field(default_factory=dict)
    applied: Tensor | None = None
    applied_momentum: Tensor | None = None
    retained: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Every tensor of the state, in a fixed order (several may be the same object)."""
        named = [self.weights, self.momentum, self.reference, self.recent]
        found = [tensor for group in named for _, tensor in sorted(group.items())]
        loose = (self.applied, self.applied_momentum, self.retained)
        return found + [tensor for tensor in loose if tensor is not None]

    def detach(self) -> MemoryState:
        """The same values, cut from the graph that made them."""

        def cut(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.detach() for name, tensor in group.items()}

        return replace(
            self,
            weights=cut(self.weights),
            momentum=cut(self.momentum),
            reference=cut(self.reference),
            recent=cut(self.recent),
            applied=None if self.applied is None else self.applied.detach(),
            applied_momentum=(
                None if self.applied_momentum is None else self.applied_momentum.detach()
            ),
            retained=None if self.retained is None else self.retained.detach(),
        )

    @property
    def bytes(self) -> int:
        """Bytes held, each storage counted once."""
        seen = {
            t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in self.tensors()
        }
        return sum(seen.values())


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """State is kept in float32 whatever the compute type, in float64 where that is float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
