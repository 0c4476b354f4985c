"""Test-time memory as a sequence mixer: projections, gates and normalisation around memory/.

What the papers leave open is chosen as follows. Projections with a causal depthwise convolution
of 4 and SiLU on q, k, v, q and k L2-normalised (Titans section 4.4); gates are scalars per head
from one linear map and the same convolution, without which the first layer could not tell the end
of a fact from the end of any sentence; the output is RMS-normalised per head and gated (Miras
section 5.4).

Legend: B batch, T tokens, H memory heads, K key size, V value size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory import (
    Gates,
    MemoryParameters,
    MemorySpec,
    MemoryState,
    chunked,
    init_parameters,
)
from atlas_bench.models.settings import ModelSettings, ScaleSettings

CONVOLUTION = 4  # tokens, as in Titans and Miras

# What the gates start at, before their squashing function: hard_sigmoid keeps 98 % a token, half of
# what is seen is written. A memory that starts by keeping everything (4.0) learnt to bind names
# to places in none of 470 thousand tokens, where this start needs 340 thousand (BABILong qa1).
INITIAL = {"retain": 2.9, "rate": 0.0, "momentum": 0.0, "weight": 0.0}


def initial_step(spec: MemorySpec) -> float:
    """How far the first updates may move, after the sizes that TTT starts with (2407.04620).

    A gradient step on two layers moves what is read by the product of their norms: from 0.5 Titans
    diverged within a hundred training steps. An orthogonalised update has the norm it is given.
    """
    return 0.5 if spec.network == "matrix" or spec.optimizer == "muon" else 0.1


@dataclass(frozen=True)
class NeuralMemoryState:
    """The convolution's last inputs (B, CONVOLUTION - 1, channels) and the memory."""

    tail: Tensor
    memory: MemoryState | None = None

    def detach(self) -> NeuralMemoryState:
        memory = None if self.memory is None else self.memory.detach()
        return NeuralMemoryState(self.tail.detach(), memory)


def gate_function(spec: MemorySpec, x: Tensor) -> Tensor:
    """sigmoid, or clamp(x / 6 + 1/2, 0, 1), which reaches exactly 0 and 1."""
    return F.hardsigmoid(x) if spec.gate == "hard_sigmoid" else torch.sigmoid(x)


class NeuralMemory(nn.Module):
    """One memory of the family for every head of every sequence."""

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__()
        spec = self.spec = model.memory.spec()
        heads = self.heads = scale.memory_heads or scale.heads
        self.value_dim = scale.width // heads
        # Only an expanding phi needs small keys; without one, equal sizes give the residual.
        small = scale.memory_key_dim if spec.features != "identity" else None
        self.key_dim = small or self.value_dim
        self.splits = [heads * self.key_dim, heads * self.key_dim, scale.width, scale.width]
        self.projections = nn.Linear(scale.width, sum(self.splits), bias=False)
        self.gates = self._gate_sizes(spec)
        self.gate = nn.Linear(scale.width, sum(self.gates.values()) * heads)
        channels = sum(self.splits) + self.gate.out_features
        self.convolution = nn.Parameter(torch.zeros(channels, CONVOLUTION))
        self.norm = nn.Parameter(torch.ones(heads, self.value_dim))
        self.out = nn.Linear(scale.width, scale.width, bias=False)
        # Rates are a gate in [0, 1] times a learnt scale: how far one update may move.
        self.log_step = nn.Parameter(torch.full((heads,), math.log(initial_step(spec))))
        start = init_parameters(spec, heads=heads, key_dim=self.key_dim, value_dim=self.value_dim)
        self.initial = nn.ParameterDict({n: nn.Parameter(w) for n, w in start.weights.items()})
        scales = start.feature_scales
        self.feature_scales = None if scales is None else nn.Parameter(scales)

    @staticmethod
    def _gate_sizes(spec: MemorySpec) -> dict[str, int]:
        """How many numbers per head and token every gate that the spec uses is made of."""
        sizes = {"weight": spec.window if spec.window_weights == "pair" else 1}
        if spec.retain == "scalar":
            sizes["retain"] = 1
        if not spec.rate_inside:
            sizes["rate"] = 1
        if spec.has_momentum:
            sizes["momentum"] = 1
        return sizes

    def initialise(self) -> None:
        """What differs from the usual start of linear layers; call it after that."""
        with torch.no_grad():
            # A query starts as the key of the same tokens, and both as a plain sum over the
            # convolution's reach: what is asked already resembles what was stored under it, and
            # binding a name to a place is learnt in a third of the steps (BABILong qa1).
            self.convolution.fill_(0.5)
            gates = self.convolution[sum(self.splits) :]  # start as the token's own
            gates.zero_()
            gates[:, -1] = 1.0
            keys = self.splits[1]
            self.projections.weight[:keys] = self.projections.weight[keys : 2 * keys]
            bias = self.gate.bias.split([size * self.heads for size in self.gates.values()])
            for name, part in zip(self.gates, bias, strict=True):
                part.fill_(INITIAL[name])

    @property
    def parameters_of_memory(self) -> MemoryParameters:
        return MemoryParameters(dict(self.initial), self.feature_scales)

    def init_state(self, batch: int) -> NeuralMemoryState:
        channels = self.convolution.shape[0]
        return NeuralMemoryState(
            self.projections.weight.new_zeros(batch, CONVOLUTION - 1, channels)
        )

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the state after ``length`` tokens in float32; does not grow with it."""
        weights = sum(w.numel() for w in self.initial.values())
        copies = 3 if self.spec.has_momentum else 2
        recent = self.spec.window - 1 + (self.spec.chunk if self.spec.is_bounded else 0)
        per_token = self.heads * (self.key_dim + self.value_dim + 6)
        tail = (CONVOLUTION - 1) * self.convolution.shape[0]
        return 4 * batch * (copies * weights + min(length, recent) * per_token + tail)

    def forward(
        self, x: Tensor, state: NeuralMemoryState
    ) -> tuple[Tensor, NeuralMemoryState, dict[str, Tensor]]:
        """(B, T, width) and the past -> (B, T, width), the past with these tokens, the gates.

        The gates are given back as they opened, in 0..1, before the learnt step scales them.
        """
        mixed, tail = self._convolve(torch.cat([self.projections(x), self.gate(x)], -1), state.tail)
        mixed, opening = mixed.split([sum(self.splits), self.gate.out_features], -1)
        q, k, v, output_gate = F.silu(mixed).split(self.splits, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        q, k = F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6)
        opened = self._gates(opening)
        gates = Gates(**self._stepped(opened))
        y, memory = chunked(self.spec, self.parameters_of_memory, q, k, v, gates, state.memory)
        y = F.rms_norm(y, (self.value_dim,), eps=1e-6) * self.norm.to(y.dtype)
        y = self.out(y.flatten(2) * output_gate)
        return y, NeuralMemoryState(tail, memory), opened

    def _convolve(self, x_BTC: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        known = torch.cat([tail.to(x_BTC.dtype), x_BTC], 1)
        length = x_BTC.shape[1]
        # Four shifted products: on a CPU faster than a grouped convolution, and as exact.
        y = sum(
            known[:, i : i + length] * self.convolution[:, i].to(x_BTC.dtype)
            for i in range(CONVOLUTION)
        )
        return y, known[:, length:]

    def _gates(self, x: Tensor) -> dict[str, Tensor]:
        """Every gate the spec uses, (B, T, H) or (B, T, H, c), from what it is made of."""
        parts = gate_function(self.spec, x).split(
            [size * self.heads for size in self.gates.values()], -1
        )
        gates = dict(zip(self.gates, parts, strict=True))
        if self.spec.window_weights == "pair":
            gates["weight"] = gates["weight"].unflatten(-1, (self.heads, self.spec.window))
        return gates

    def _stepped(self, gates: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gate that carries the step, scaled by how far one update of each head may move."""
        name = "weight" if self.spec.rate_inside else "rate"
        step = self.log_step.exp().to(gates[name].dtype)
        return gates | {name: gates[name] * (step[:, None] if gates[name].dim() == 4 else step)}
