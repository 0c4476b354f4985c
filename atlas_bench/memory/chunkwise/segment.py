"""A run of chunks, as both ways of computing it see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atlas_bench.memory.bounded import Bound
from atlas_bench.memory.chunkwise.coefficients import Coefficients
from atlas_bench.memory.spec import MemorySpec

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Segment:
    """A run of whole chunks, or a part of one chunk (N = 1), and what it starts from."""

    q_NGXK: Tensor
    phi_q_NGXD: Tensor
    k_NGJK: Tensor
    phi_k_NGJD: Tensor
    v_NGJV: Tensor
    tokens: dict[str, Tensor]  # the gates, (N, G, J)
    rows: Coefficients | None  # None for the exact delta rule, which needs none
    bound: Bound | None  # of a bounded step
    weights: Weights
    momentum: Weights
    reference: Weights
    place: int

    @property
    def values(self) -> int:
        return self.v_NGJV.shape[-1]


def times(gate: Tensor, weight: Tensor) -> Tensor:
    return gate[..., None, None].to(weight.dtype) * weight


def outer_sum(left: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    """sum_j scale_j left_j right_j: (G, J, O), (G, J), (G, J, I) -> (G, O, I)."""
    return (left * scale[..., None].to(left.dtype)).mT @ right


def named(spec: MemorySpec, tensors: tuple[Tensor, ...]) -> tuple[Weights, Weights]:
    """(W..., S...) as two dicts; S is empty without momentum."""
    names = spec.weight_names
    weights = dict(zip(names, tensors, strict=False))
    return weights, dict(zip(names, tensors[len(names) :], strict=False))
