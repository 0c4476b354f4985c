"""Test-time memory as a sequence mixer: projections, gates and normalisation around memory/.

The papers leave some choices open. Here q, k and v have a causal depthwise convolution over 4
tokens and SiLU, and q and k are L2-normalised (Titans section 4.4). Gates are scalars per head from
one linear map and the same convolution; without it the first layer could not tell the end of a fact
from the end of any sentence. The output is RMS-normalised per head and gated (Miras section 5.4).

Legend: B batch, T tokens of this call, H memory heads, K key size, V value size, O and I the rows
and columns of a weight.
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
    chunk_memory,
    init_parameters,
)
from atlas_bench.memory.cached import read_frozen
from atlas_bench.memory.features import feature_dim
from atlas_bench.memory.spec import state_dtype
from atlas_bench.models.convolution import CONVOLUTION, convolve
from atlas_bench.models.mixer import Mixer, TrainingStage
from atlas_bench.models.settings import ModelSettings, ScaleSettings

# The share of a memory that each token keeps at the start. With it, ATLAS learns to bind names to
# places (BABILong qa1) within 340 thousand tokens; starting at 1 it had not after 470 thousand.
# Gated DeltaNet, started at 0.948, learnt it at no rate of six.
INITIAL_RETAIN = 59 / 60
# The first values of the other gates before their squashing function: half of each token is
# written. A threshold starts at 1, near the norm of a value.
INITIAL = {"rate": 0.0, "momentum": 0.0, "weight": 0.0, "threshold": 0.54}
STATE_TOLERANCE = 0.1  # a memory within this share of the target size counts as matched


@dataclass(frozen=True)
class NeuralMemoryState:
    """The convolution's last inputs (B, CONVOLUTION - 1, channels), and the memory; None before
    the first token."""

    tail: Tensor
    memory: MemoryState | None = None


def gate_function(spec: MemorySpec, x: Tensor) -> Tensor:
    """sigmoid, or clamp(x / 6 + 1/2, 0, 1), which reaches exactly 0 and 1."""
    if spec.gate != "hard_sigmoid":
        return torch.sigmoid(x)
    if x.dtype == torch.float64:  # PyTorch's CUDA kernel multiplies by 1/6 in float32
        return ((x + 3) / 6).clamp(0, 1)
    return F.hardsigmoid(x)


def gate_input(spec: MemorySpec, opening: float) -> float:
    """The inverse of `gate_function`, for an opening between 0 and 1."""
    if spec.gate == "hard_sigmoid":
        return 6 * opening - 3
    return math.log(opening / (1 - opening))


def unit(x: Tensor) -> Tensor:
    """L2-normalised over the last dimension, in the type of x, which autocast would widen."""
    return F.normalize(x, dim=-1, eps=1e-6).to(x.dtype)


def memory_key_dim(model: ModelSettings, scale: ScaleSettings) -> int:
    """K. Only an expanding phi needs small keys; otherwise keys have the size of values, which the
    memory's residual needs."""
    small = scale.memory_key_dim if model.memory.features in ("polynomial", "taylor") else None
    return small or scale.width // (scale.memory_heads or scale.heads)


def check_segment(model: ModelSettings) -> None:
    """Raise ValueError where segments of ``model.segment`` tokens end inside a chunk."""
    if model.segment < 1 or model.segment % model.memory.chunk:
        raise ValueError(
            f"model.segment={model.segment} is not a multiple of model.memory.chunk="
            f"{model.memory.chunk}: a segment reads the memory where a chunk has ended"
        )


class NeuralMemory(Mixer):
    """One memory of the family for every head of every sequence.

    ``inner`` is for hybrids, which gate and project the output themselves. ``observed`` holds the
    gates of the last forward as they opened, in 0..1, (B, T, H) or (B, T, H, ...), before the
    learnt step scales them; the threshold of `huber` is a softplus and above 0.
    """

    @classmethod
    def match_state(
        cls, model: ModelSettings, scale: ScaleSettings
    ) -> tuple[ModelSettings, ScaleSettings]:
        """A memory of about width^2 numbers, by its expansion; a matrix by its number of heads."""
        target = scale.width**2
        if model.memory.network == "matrix":
            divisors = (heads for heads in range(1, scale.width + 1) if scale.width % heads == 0)
            candidates = [(model, replace(scale, memory_heads=heads)) for heads in divisors]
        else:
            memories = (replace(model.memory, expansion=expansion) for expansion in range(1, 65))
            candidates = [(replace(model, memory=memory), scale) for memory in memories]
        nearest = min(candidates, key=lambda pair: abs(cls.memory_numbers(*pair) - target))
        numbers = cls.memory_numbers(*nearest)
        if abs(numbers / target - 1) > STATE_TOLERANCE:
            raise ValueError(
                f"model.match=state cannot match {model.name} at scale.name={scale.name}: the "
                f"nearest memory holds {numbers:,} numbers a layer, not {target:,}; change "
                f"scale.memory_heads or scale.memory_key_dim, or set model.match=none"
            )
        return nearest

    def __init__(self, model: ModelSettings, scale: ScaleSettings, *, inner: bool = False) -> None:
        super().__init__()
        spec = self.spec = model.memory.spec()
        self.chunk, self.coarse_factor = spec.chunk, model.coarse_factor
        self.longest_chunk = None  # tokens; a hybrid's segment
        self.write_gate = model.write_gate
        heads = self.heads = scale.memory_heads or scale.heads
        self.value_dim = scale.width // heads
        self.key_dim = memory_key_dim(model, scale)
        self.splits = [heads * self.key_dim, heads * self.key_dim, scale.width]
        if not inner:
            self.splits.append(scale.width)
        self.projections = nn.Linear(scale.width, sum(self.splits), bias=False)
        self.gate_sizes = self._gate_sizes()
        opening = sum(self.gate_sizes.values()) * heads
        self.gate = nn.Linear(scale.width, opening) if opening else None
        channels = sum(self.splits) + opening
        self.convolution = nn.Parameter(torch.zeros(channels, CONVOLUTION))
        self.norm = nn.Parameter(torch.ones(heads, self.value_dim))
        self.out = None if inner else nn.Linear(scale.width, scale.width, bias=False)
        # A rate is a gate in [0, 1] times a learnt scale, which says how far one update may move.
        self.log_step = None
        if self.write_gate:
            steps = heads * self.gate_sizes.get("rate", 1)
            self.log_step = nn.Parameter(torch.full((steps,), math.log(model.initial_step)))
        sizes = {"heads": heads, "key_dim": self.key_dim, "value_dim": self.value_dim}
        start = self.initial_memory(spec, **sizes)
        self.initial = nn.ParameterDict({n: nn.Parameter(w) for n, w in start.weights.items()})
        scales = start.feature_scales
        self.feature_scales = None if scales is None else nn.Parameter(scales)
        self.register_buffer("tables", start.tables)
        self.branch_gain = self.branch_bias = None
        if spec.branch_norm_affine:
            self.branch_gain = nn.Parameter(start.norm_gain)
            self.branch_bias = nn.Parameter(start.norm_bias)

    @staticmethod
    def initial_memory(spec: MemorySpec, **sizes: int) -> MemoryParameters:
        """What the outer loop learns of the memory; sizes are heads, key_dim and value_dim."""
        return init_parameters(spec, **sizes)

    @classmethod
    def memory_numbers(cls, model: ModelSettings, scale: ScaleSettings) -> int:
        """The number of weights of one layer's memory."""
        heads = scale.memory_heads or scale.heads
        sizes = {"key_dim": memory_key_dim(model, scale), "value_dim": scale.width // heads}
        with torch.device("meta"):
            start = cls.initial_memory(model.memory.spec(), heads=heads, **sizes)
        return sum(weight.numel() for weight in start.weights.values())

    def _gate_sizes(self) -> dict[str, int]:
        """Numbers per head and token of every gate that the spec uses.

        In a window of one token the weight would only be a second rate, so it is left out.
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
        if spec.objective == "huber":
            sizes["threshold"] = 1
        return sizes

    def initialise(self) -> None:
        """Queries start as keys, the convolution as a plain sum, the gates as above."""
        with torch.no_grad():
            # A question then resembles the key of its answer from the start, and binding a name to
            # a place is learnt in a third of the steps (BABILong qa1).
            self.convolution.fill_(0.5)
            gate_taps = self.convolution[sum(self.splits) :]  # a gate starts as the token's own
            gate_taps.zero_()
            gate_taps[:, -1] = 1.0
            keys = self.splits[1]
            self.projections.weight[:keys] = self.projections.weight[keys : 2 * keys]
            if self.gate is not None:
                sizes = [size * self.heads for size in self.gate_sizes.values()]
                for name, part in zip(self.gate_sizes, self.gate.bias.split(sizes), strict=True):
                    retain = gate_input(self.spec, INITIAL_RETAIN)
                    part.fill_(retain if name == "retain" else INITIAL[name])

    @property
    def parameters_of_memory(self) -> MemoryParameters:
        """The learnt initial memory, feature scales and layer norm, and the tables."""
        others = (self.feature_scales, self.tables, self.branch_gain, self.branch_bias)
        return MemoryParameters(dict(self.initial), *others)

    def init_state(self, batch: int) -> NeuralMemoryState:
        shape = (batch, CONVOLUTION - 1, len(self.convolution))
        return NeuralMemoryState(self.projections.weight.new_zeros(shape))

    def enter_stage(self, stage: TrainingStage | None) -> None:
        """In coarse stages gradients are taken at chunks ``coarse_factor`` times as long.

        A larger chunk is a coarser and easier memory with the same parameters.
        """
        coarse = stage is not None and stage.coarse
        chunk = self.chunk * (self.coarse_factor if coarse else 1)
        if self.longest_chunk is not None and self.longest_chunk % chunk:
            chunk = self.longest_chunk
        if chunk != self.spec.chunk:
            self.spec = replace(self.spec, chunk=chunk)

    def state_bytes(self, batch: int, length: int, copies: int = 0) -> int:
        """The most bytes that the state takes up to ``length`` tokens, in float32; does not grow.

        It takes most before the last token of a chunk, when it also holds the weights at the
        chunk's start. ``copies``: copies of the weights that a hybrid holds besides.
        """
        spec, gates = self.spec, 2  # rate and momentum, which are kept even if unused
        weights = sum(w.numel() for w in self.initial.values())
        copies += 1 + spec.has_momentum + (spec.chunk > 1)
        gates += feature_dim(spec, self.key_dim) if spec.retain == "channel" else 1
        gates += spec.window if spec.window_weights == "pair" else 1
        gates += spec.objective == "huber"
        recent, whole = spec.window - 1, 0
        if spec.is_bounded:
            recent, gates, whole = recent + spec.chunk - 1, gates + 2, 1
        tokens = min(length, recent) * (self.key_dim + self.value_dim + gates)
        tail = (CONVOLUTION - 1) * self.convolution.shape[0]
        return 4 * batch * (copies * weights + self.heads * (tokens + whole) + tail)

    def forward(self, x: Tensor, state: NeuralMemoryState) -> tuple[Tensor, NeuralMemoryState]:
        tokens, gates, output_gate, tail = self.token_inputs(x, state.tail)
        parameters = self.parameters_of_memory
        y, memory = chunk_memory(self.spec, parameters, *tokens, Gates(**gates), state.memory)
        return self.output(y, output_gate), NeuralMemoryState(tail, memory)

    def token_inputs(
        self, x: Tensor, tail: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor], list[Tensor], Tensor]:
        """q, k (B, T, H, K) and v (B, T, H, V); the gates with their step by name; the output gate,
        none in a hybrid; the convolution's next tail."""
        projected = self.projections(x)
        if self.gate is not None:
            projected = torch.cat([projected, self.gate(x)], -1)
        mixed, tail = convolve(self.convolution, projected, tail)
        mixed, opening = mixed.tensor_split([sum(self.splits)], -1)
        q, k, v, *output_gate = F.silu(mixed).split(self.splits, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        # bfloat16 has no number between 0.996 and 1, where keep-rates decide how long a memory is.
        self.observed = self._gates(opening.to(state_dtype(opening.dtype)))
        return (unit(q), unit(k), v), self._stepped(self.observed), output_gate, tail

    def output(self, y: Tensor, output_gate: list[Tensor]) -> Tensor:
        """(B, T, H, V) from the memory -> (B, T, width)."""
        y = self._normalised(y)
        return y if self.out is None else self.out(y * output_gate[0])

    def retrieve(self, queries: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """(B, T, H K) -> (B, T, width), read from ``weights`` (B, H, O, I) that do not change.

        ``{}`` stands for the initial weights.
        """
        q = unit(F.silu(queries).unflatten(-1, (self.heads, -1)))
        frozen, params = dict(weights or self.initial), self.parameters_of_memory
        return self._normalised(read_frozen(self.spec, params, q, frozen))

    def _normalised(self, y_BTHV: Tensor) -> Tensor:
        y = F.rms_norm(y_BTHV, (self.value_dim,), eps=1e-6) * self.norm.to(y_BTHV.dtype)
        return y.flatten(2)

    def _gates(self, x: Tensor) -> dict[str, Tensor]:
        """Every gate that the spec uses, from the linear map's output (B, T, ...)."""
        sizes = [size * self.heads for size in self.gate_sizes.values()]
        parts = gate_function(self.spec, x).split(sizes, -1)
        gates = dict(zip(self.gate_sizes, parts, strict=True))
        if "threshold" in gates:
            gates["threshold"] = F.softplus(x.split(sizes, -1)[-1])  # the last of the gates
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

    # training ----------------------------------------------------------------------------------

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """``memory_change``: mean over heads and tokens of written plus forgotten (1 - retain).

        It counts the gates as they open: a penalty on the step itself would keep old values from
        being replaced.
        """
        retain = self.observed.get("retain")
        changes = (self._written(), None if retain is None else 1 - retain)
        terms = [change.float().mean() for change in changes if change is not None]
        return {"memory_change": sum(terms, self.norm.new_zeros(()))}

    def _written(self) -> Tensor | None:
        """How much each token writes, (B, T, H), or None if no gate decides it.

        This is rate x weight. For `muon` it is the rate alone: an orthogonalised update has the
        same norm whatever the weights of its tokens, so that a memory which sees nothing (weight 0)
        at a rate above 0 still applies its last momentum.
        """
        rate, weight = self.observed.get("rate"), self.observed.get("weight")
        if weight is None or (rate is not None and self.spec.optimizer == "muon"):
            return rate
        weight = weight.mean(-1) if weight.dim() == 4 else weight
        return weight if rate is None else weight * rate

    @torch.no_grad()
    def metrics(self, state: NeuralMemoryState | None) -> dict[str, Tensor]:
        """Means over sequences and heads.

        ``memory_norm``: Frobenius norm of all weights at the end. ``memory_update``: norm of their
        difference from the initial weights. ``pruned``: share of tokens (and heads) that write
        exactly nothing. ``gate_*``: the gates as they open.
        """
        values: dict[str, Tensor] = {}
        if state is not None:
            weights = state.memory.weights
            updates = {name: weight - self.initial[name] for name, weight in weights.items()}
            for name, tensors in (("memory_norm", weights), ("memory_update", updates)):
                squared = sum(tensor.square().sum((-2, -1)) for tensor in tensors.values())
                values[name] = squared.sqrt().mean()
        written = self._written()
        if written is not None:
            values["pruned"] = (written == 0).float().mean()
        for name, gate in self.observed.items():
            values[f"gate_{name}"] = gate.float().mean()
        return values
