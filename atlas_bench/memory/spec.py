"""The member of the memory family that a layer uses, and its tensors.

Legend: B batch, T tokens, H heads, K key size, V value size, D features, O and I the rows and
columns of a weight, R remembered tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from atlas_bench.naming import nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "network": ("matrix", "mlp", "gated_mlp"),
    "features": ("identity", "polynomial", "taylor", "sketch"),
    "objective": ("l2", "dot", "lp", "huber"),
    "window_weights": ("token", "pair"),
    "optimizer": ("gd", "momentum", "muon"),
    "retain": ("none", "scalar", "channel", "fixed"),
    "retention": ("l2", "lq", "kl"),
    "gate": ("sigmoid", "hard_sigmoid"),
    "bounded_by": ("keys", "network"),
    "newton_schulz_coefficients": ("jordan", "polar_express", "lact"),
}


@dataclass(frozen=True)
class MemorySpec:
    """One member of the family of test-time memories (ATLAS Eq 8-16, 32-33; Titans Eq 13-14).

    ``rate_inside`` puts the step inside the momentum: the window weight carries it, and the rate
    gate is not used (eta = 1). With ``retain='fixed'`` the keep-rate does not depend on the token;
    in this package it is the same tensor as for ``scalar``. ``channel`` has one keep-rate per
    feature, for which only the input side of a `matrix` has a place. ``branch_norm`` normalises the
    branch beside the residual (TTT's LN, 2407.04620), which a `matrix` then has too; with
    ``branch_norm_affine`` the outer loop learns its gain and bias. ``lp`` and ``huber`` are Miras's
    losses (2504.13173, Eq 10 and 26). ``retention`` says what the network is read with: the weights
    that are updated, or a function of them (`memory/retention.py`).

    Raises ValueError with the field's name for a value outside the family.
    """

    network: str = "mlp"  # M: a matrix, two layers, or two with a gate
    features: str = "identity"  # phi, applied to keys and queries
    degree: int = 2  # highest degree of polynomial, taylor and sketch
    constant_feature: bool = True  # whether phi has the degree-0 monomial a_0
    objective: str = "l2"  # what an update lowers: the squared error, the negative dot product, ...
    loss_power: float = 3.0  # p of the `lp` loss (1/p) ||error||_p^p
    window: int = 1  # c: an update learns the last c tokens
    window_weights: str = "token"  # whether gamma depends on the token, or on token and update
    optimizer: str = "gd"  # the memory's own optimizer
    update_every: int = 1  # tokens between two updates
    chunk: int = 16  # b: tokens whose gradients are all taken at the weights before the first
    retain: str = "scalar"  # what the keep-rate alpha depends on
    retention: str = "l2"  # what is kept near the past: the weights, by their l_q norm, or in KL
    retention_power: float = 4.0  # q of the `lq` retention
    rate_inside: bool = False  # whether the step is inside the momentum (Titans)
    gate: str = "sigmoid"  # function of the gates; hard_sigmoid reaches 0 exactly
    bounded_step: bool = False  # whether a chunk's summed step is limited: memory/bounded.py
    bounded_by: str = "keys"  # how the limited step is measured
    expansion: int = 4  # hidden features of a network, times the size of a value
    branch_norm: bool = False  # layer norm of the branch beside the residual
    branch_norm_affine: bool = False  # whether that layer norm has a learnt gain and bias
    sketch_size: int = 256  # features of `sketch` per degree above 1
    newton_schulz_steps: int = 5  # steps of muon's orthogonalisation
    newton_schulz_coefficients: str = "jordan"  # schedule of muon's orthogonalisation

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
        self._check_miras()
        if self.retain == "channel" and (
            self.network != "matrix"
            or self.optimizer == "muon"
            or self.bounded_step
            or self.branch_norm
        ):
            raise ValueError(
                "memory.retain=channel is defined for memory.network=matrix with "
                "memory.optimizer=gd or momentum, memory.bounded_step=false and "
                "memory.branch_norm=false; use memory.retain=scalar with the others"
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

    def _check_miras(self) -> None:
        """The losses and retentions of Miras, and the learnt layer norm of TTT."""
        for name, least in (("loss_power", 1), ("retention_power", 2)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"memory.{name}={getattr(self, name)} must be at least {least}, where its "
                    f"slope is finite"
                )
        if self.branch_norm_affine and not self.branch_norm:
            raise ValueError(
                "memory.branch_norm_affine=true is the gain of a layer norm that is off; set "
                "memory.branch_norm=true"
            )
        for name, used in (
            ("branch_norm_affine=true", self.branch_norm_affine),
            ("objective=huber", self.objective == "huber"),
            (f"retention={self.retention}", self.retention != "l2"),
        ):
            if used and (self.optimizer == "muon" or self.retain == "channel"):
                raise ValueError(
                    f"memory.{name} is defined for memory.optimizer=gd or momentum and one "
                    f"keep-rate per head; use memory.retain=scalar with them"
                )
        if self.retention != "l2" and self.bounded_step:
            raise ValueError(
                f"memory.retention={self.retention} bounds the weights itself; set "
                f"memory.bounded_step=false"
            )

    @property
    def has_momentum(self) -> bool:
        return self.optimizer != "gd"

    @property
    def is_bounded(self) -> bool:
        """Whether the step is limited; `muon` needs no limit, because its updates have a bounded
        norm."""
        return self.bounded_step and self.optimizer != "muon"

    @property
    def weight_names(self) -> tuple[str, ...]:
        return {"matrix": ("W1",), "mlp": ("W1", "W2")}.get(self.network, ("W1", "W2", "W3"))

    @property
    def is_delta_rule(self) -> bool:
        """Whether this is (Gated) DeltaNet: a matrix whose exact recurrence has a closed form over
        many tokens."""
        return (
            self.network == "matrix"
            and self.objective == "l2"
            and self.optimizer == "gd"
            and self.retention == "l2"
            and not self.branch_norm
            and self.window == self.chunk == 1
            and self.retain != "channel"
        )


def _next_multiple(value: int, of: int) -> int:
    return -(-value // of) * of


@dataclass(frozen=True)
class Gates:
    """The data-dependent gates, after their squashing function.

    ``retain``    alpha, the decay: (B, T, H), or (B, T, H, D) with ``retain='channel'``
    ``rate``      eta, the step size: (B, T, H)
    ``momentum``  theta, the momentum's decay: (B, T, H)
    ``weight``    gamma, the token's weight in the window: (B, T, H), or (B, T, H, c) with
                  ``window_weights='pair'``; ``weight[:, t, :, lag]`` weighs token t - lag
    ``threshold`` delta, above which the `huber` loss is linear: (B, T, H); others ignore it

    A gate that is left out is 1, but an optimizer with momentum needs ``momentum``.
    """

    retain: Tensor | None = None
    rate: Tensor | None = None
    momentum: Tensor | None = None
    weight: Tensor | None = None
    threshold: Tensor | None = None


@dataclass(frozen=True)
class MemoryParameters:
    """What the outer loop learns (the initial memory W_0, feature scales, layer norm), and tables.

    ``weights``: name -> (H, O, I). ``feature_scales``: (H, degree + 1) or None; degree i of the
    polynomial kernel has the coefficient a_i = feature_scales[:, i]**2, so that a_i >= 0.
    ``tables``: the random signs of `sketch`, (degree, K, sketch_size), not learnt; or None.
    ``norm_gain`` and ``norm_bias``: of the branch's layer norm, (H, 1, V); or None.
    """

    weights: dict[str, Tensor]
    feature_scales: Tensor | None = None
    tables: Tensor | None = None
    norm_gain: Tensor | None = None
    norm_bias: Tensor | None = None

    @property
    def coefficients(self) -> Tensor | None:
        """The kernel's coefficients a_i, (H, degree + 1)."""
        return None if self.feature_scales is None else self.feature_scales.square()

    def to(self, dtype: torch.dtype) -> MemoryParameters:
        """The same parameters in another type."""
        others = (self.feature_scales, self.tables, self.norm_gain, self.norm_bias)
        others = (None if other is None else other.to(dtype) for other in others)
        return MemoryParameters({n: w.to(dtype) for n, w in self.weights.items()}, *others)


@dataclass(frozen=True)
class MemoryState:
    """Everything that is kept of the past; its size does not depend on the number of tokens.

    weights      name -> (B, H, O, I), W_t (A_t of `memory/retention.py` with an `lq` or `kl`
                 retention). Inside a chunk with a bounded step these are the weights
                 before the limit, which acts on what is read and at the chunk's end.
    momentum     name -> (B, H, O, I), S_t; empty for `gd`.
    chunk_start_weights   name -> (B, H, O, I), W_t', where gradients are taken.
    position     tokens read so far; its remainder by the chunk is the place inside the chunk.
    recent       inputs of the last R tokens: k (B, H, R, K), v (B, H, R, V) less the bias of a
                 layer norm, gates (B, H, R) or (B, H, R, c). R = c - 1; with a bounded step also
                 the chunk's tokens so far.
    applied, applied_momentum   (B, H, R), only with a bounded step: the coefficients of the recent
                 tokens' gradients in W_t and S_t.
    retained     (B, H), only with a bounded step: the product of the chunk's keep-rates so far.
    """

    weights: dict[str, Tensor]
    momentum: dict[str, Tensor]
    chunk_start_weights: dict[str, Tensor]
    position: int
    recent: dict[str, Tensor] = field(default_factory=dict)
    applied: Tensor | None = None
    applied_momentum: Tensor | None = None
    retained: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Every tensor of the state, in a fixed order (several may be the same object)."""
        groups = [self.weights, self.momentum, self.chunk_start_weights, self.recent]
        named = [tensor for group in groups for _, tensor in sorted(group.items())]
        optional = (self.applied, self.applied_momentum, self.retained)
        return named + [tensor for tensor in optional if tensor is not None]

    @property
    def bytes(self) -> int:
        """Bytes held; a storage that several tensors share counts once."""
        sizes = {
            t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in self.tensors()
        }
        return sum(sizes.values())


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The state's type: float64 if the compute type is float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
