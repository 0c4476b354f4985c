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
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory import (
    Gates,
    MemoryParameters,
    MemorySpec,
    MemoryState,
    apply_features,
    chunk_memory,
    init_parameters,
)
from atlas_bench.memory.features import feature_dim
from atlas_bench.memory.networks import forward as read
from atlas_bench.memory.spec import state_dtype
from atlas_bench.models.convolution import CONVOLUTION, convolve
from atlas_bench.models.settings import ModelSettings, ScaleSettings

# What the gates start at, before their squashing function: hard_sigmoid keeps 98 % a token, half of
# what is seen is written. A memory that starts by keeping everything (4.0) learnt to bind names
# to places in none of 470 thousand tokens, where this start needs 340 thousand (BABILong qa1).
INITIAL = {"retain": 2.9, "rate": 0.0, "momentum": 0.0, "weight": 0.0}


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


def unit(x: Tensor) -> Tensor:
    """L2-normalised over the last dimension, in the type of x: a GPU's autocast widens it."""
    return F.normalize(x, dim=-1, eps=1e-6).to(x.dtype)


def memory_key_dim(model: ModelSettings, scale: ScaleSettings) -> int:
    """d_k: only an expanding phi needs small keys; without one, equal sizes give the residual."""
    small = scale.memory_key_dim if model.memory.features in ("polynomial", "taylor") else None
    return small or scale.width // (scale.memory_heads or scale.heads)


class NeuralMemory(nn.Module):
    """One memory of the family for every head of every sequence."""

    def __init__(self, model: ModelSettings, scale: ScaleSettings, *, inner: bool = False) -> None:
        super().__init__()
        spec = self.spec = model.memory.spec()
        self.write_gate, self.longest_chunk = model.write_gate, None
        heads = self.heads = scale.memory_heads or scale.heads
        self.value_dim = scale.width // heads
        self.key_dim = memory_key_dim(model, scale)
        self.splits = [heads * self.key_dim, heads * self.key_dim, scale.width]
        if not inner:  # a hybrid gates and projects what the memory gives by itself
            self.splits.append(scale.width)
        self.projections = nn.Linear(scale.width, sum(self.splits), bias=False)
        self.gates = self._gate_sizes()
        opening = sum(self.gates.values()) * heads
        self.gate = nn.Linear(scale.width, opening) if opening else None
        channels = sum(self.splits) + opening
        self.convolution = nn.Parameter(torch.zeros(channels, CONVOLUTION))
        self.norm = nn.Parameter(torch.ones(heads, self.value_dim))
        self.out = None if inner else nn.Linear(scale.width, scale.width, bias=False)
        # Rates are a gate in [0, 1] times a learnt scale: how far one update may move.
        self.log_step = None
        if self.write_gate:
            self.log_step = nn.Parameter(torch.full((heads,), math.log(model.initial_step)))
        start = init_parameters(spec, heads=heads, key_dim=self.key_dim, value_dim=self.value_dim)
        self.initial = nn.ParameterDict({n: nn.Parameter(w) for n, w in start.weights.items()})
        scales = start.feature_scales
        self.feature_scales = None if scales is None else nn.Parameter(scales)
        self.register_buffer("tables", start.tables)

    def _gate_sizes(self) -> dict[str, int]:
        """How many numbers per head and token every gate that the spec uses is made of.

        In a window of one token its weight would only be a second rate.
        """
        spec, sizes = self.spec, {}
        if self.write_gate and (spec.window > 1 or spec.rate_inside):
            sizes["weight"] = spec.window if spec.window_weights == "pair" else 1
        if spec.retain in ("scalar", "channel"):
            inputs = feature_dim(spec, self.key_dim)
            sizes["retain"] = inputs if spec.retain == "channel" else 1
        if self.write_gate and not spec.rate_inside:
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
            if self.gate is not None:
                bias = self.gate.bias.split([size * self.heads for size in self.gates.values()])
                for name, part in zip(self.gates, bias, strict=True):
                    part.fill_(INITIAL[name])

    @property
    def parameters_of_memory(self) -> MemoryParameters:
        return MemoryParameters(dict(self.initial), self.feature_scales, self.tables)

    def init_state(self, batch: int) -> NeuralMemoryState:
        channels = self.convolution.shape[0]
        return NeuralMemoryState(
            self.projections.weight.new_zeros(batch, CONVOLUTION - 1, channels)
        )

    def scale_chunk(self, chunk: int, factor: int) -> None:
        """Take gradients at chunks of ``factor * chunk`` tokens, at most ``longest_chunk``."""
        longest = self.longest_chunk
        chunk = chunk * factor
        if longest is not None and longest % chunk:
            chunk = longest
        self.spec = replace(self.spec, chunk=chunk)

    def state_bytes(self, batch: int, length: int, copies: int = 0) -> int:
        """Bytes that the state takes at most, up to ``length`` tokens, in float32; does not grow.

        That is before the last token of a chunk, when the weights at its start are held besides.
        ``copies``: of the weights, that a hybrid holds besides.
        """
        spec, gates = self.spec, 2  # rate and momentum, which are held whether used or not
        weights = sum(w.numel() for w in self.initial.values())
        copies += 1 + spec.has_momentum + (spec.chunk > 1)
        gates += feature_dim(spec, self.key_dim) if spec.retain == "channel" else 1
        gates += spec.window if spec.window_weights == "pair" else 1
        recent, whole = spec.window - 1, 0
        if spec.is_bounded:
            recent, gates, whole = recent + spec.chunk - 1, gates + 2, 1
        tokens = min(length, recent) * (self.key_dim + self.value_dim + gates)
        tail = (CONVOLUTION - 1) * self.convolution.shape[0]
        return 4 * batch * (copies * weights + self.heads * (tokens + whole) + tail)

    def forward(
        self, x: Tensor, state: NeuralMemoryState
    ) -> tuple[Tensor, NeuralMemoryState, dict[str, Tensor]]:
        """(B, T, width) and the past -> (B, T, width), the past with these tokens, the gates.

        The gates are given back as they opened, in 0..1, before the learnt step scales them.
        """
        projected = self.projections(x)
        if self.gate is not None:
            projected = torch.cat([projected, self.gate(x)], -1)
        mixed, tail = convolve(self.convolution, projected, state.tail)
        mixed, opening = mixed.tensor_split([sum(self.splits)], -1)
        q, k, v, *output_gate = F.silu(mixed).split(self.splits, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        q, k = unit(q), unit(k)
        # bfloat16 has nothing between 0.996 and 1, where keep-rates decide how long a memory is.
        opened = self._gates(opening.to(state_dtype(opening.dtype)))
        gates = Gates(**self._stepped(opened))
        y, memory = chunk_memory(self.spec, self.parameters_of_memory, q, k, v, gates, state.memory)
        y = self._normalised(y)
        if self.out is not None:
            y = self.out(y * output_gate[0])
        return y, NeuralMemoryState(tail, memory), opened

    def retrieve(self, queries: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """(B, T, H K) -> (B, T, width), read from weights (B, H, out, in) that do not change.

        ``{}`` stands for the initial weights.
        """
        q = unit(F.silu(queries).unflatten(-1, (self.heads, -1)))
        frozen = dict(weights or self.initial)

        def linear(name: str, x_BHTI: Tensor) -> Tensor:
            return x_BHTI @ frozen[name].to(x_BHTI.dtype).mT

        phi = apply_features(self.spec, self.parameters_of_memory, q).transpose(1, 2)
        y = read(self.spec, linear, phi, q.transpose(1, 2), self.value_dim)
        return self._normalised(y.transpose(1, 2))

    def _normalised(self, y_BTHV: Tensor) -> Tensor:
        y = F.rms_norm(y_BTHV, (self.value_dim,), eps=1e-6) * self.norm.to(y_BTHV.dtype)
        return y.flatten(2)

    def _gates(self, x: Tensor) -> dict[str, Tensor]:
        """Every gate the spec uses, (B, T, H) or (B, T, H, c), from what it is made of."""
        parts = gate_function(self.spec, x).split(
            [size * self.heads for size in self.gates.values()], -1
        )
        gates = dict(zip(self.gates, parts, strict=True))
        if "weight" in gates and self.spec.window_weights == "pair":
            gates["weight"] = gates["weight"].unflatten(-1, (self.heads, self.spec.window))
        if self.spec.retain == "channel":
            gates["retain"] = gates["retain"].unflatten(-1, (self.heads, -1))
        if self.spec.retain == "fixed":  # RetNet's (2307.08621): 1 - 2^(-5 - head)
            heads = torch.arange(self.heads, device=x.device, dtype=x.dtype)
            gates["retain"] = (1 - torch.exp2(-5 - heads)).expand(*x.shape[:2], -1)
        return gates

    def _stepped(self, gates: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gate that carries the step, scaled by how far one update of each head may move."""
        if self.log_step is None:
            return gates
        name = "weight" if self.spec.rate_inside else "rate"
        step = self.log_step.exp().to(gates[name].dtype)
        return gates | {name: gates[name] * (step[:, None] if gates[name].dim() == 4 else step)}
