"""A run of chunks and what it starts from: the common input of all forms.

Legend: N chunks, G = batch x heads, J tokens that are learnt from, X tokens that read, K key size,
D features, V value size, O and I the rows and columns of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atlas_bench.memory.chunkwise.bound import Bound
from atlas_bench.memory.chunkwise.coefficients import Coefficients
from atlas_bench.memory.spec import MemorySpec

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Segment:
    """A run of whole chunks, or a part of one chunk (N = 1), and the state at its start."""

    q_NGXK: Tensor
    phi_q_NGXD: Tensor
    k_NGJK: Tensor
    phi_k_NGJD: Tensor
    v_NGJV: Tensor
    tokens: dict[str, Tensor]  # the gates, (N, G, J)
    rows: Coefficients | None  # None for the exact delta rule, which uses none
    bound: Bound | None  # for a bounded step
    weights: Weights
    momentum: Weights
    chunk_start_weights: Weights
    place: int  # tokens of the first chunk that were read before
    gain_NG1V: Tensor | None = None  # of the branch's layer norm
    predict: bool = False  # whether the exact delta rule returns predictions behind y

    @property
    def loss_inputs(self) -> dict[str, Tensor]:
        """What `gradient_factors` needs besides weights, keys and values, by its arguments."""
        found = {"gain": self.gain_NG1V, "threshold": self.tokens.get("threshold")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def values(self) -> int:
        """V."""
        return self.v_NGJV.shape[-1]


def times(gate: Tensor, weight: Tensor) -> Tensor:
    """gate (...) times weight (..., O, I), in the weight's type."""
    return gate[..., None, None].to(weight.dtype) * weight


def outer_sum(left: Tensor, scale: Tensor, right: Tensor) -> Tensor:
    """sum_j scale_j left_j right_j: (G, J, O), (G, J), (G, J, I) -> (G, O, I)."""
    return (left * scale[..., None].to(left.dtype)).mT @ right


def named(spec: MemorySpec, tensors: tuple[Tensor, ...]) -> tuple[Weights, Weights]:
    """(W..., S...) as two dicts; S is empty without momentum."""
    names = spec.weight_names
    weights = dict(zip(names, tensors, strict=False))
    return weights, dict(zip(names, tensors[len(names) :], strict=False))
