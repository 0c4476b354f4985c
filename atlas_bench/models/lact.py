"""LaCT (2505.23884): a SwiGLU memory that is updated once in a large chunk, beside attention.

Both parts of the layer share queries, keys and values. Sliding-window attention sees the tokens
that the memory has not learnt yet: a token reads the memory as it stood at the start of its chunk.
With f(x) = W2 (silu(W1 x) * W3 x), the end of a chunk does, for each weight W (section 3),

    G = sum over the chunk's tokens i of  rate_i d <f(k_i), v_i> / dW       one rate for each weight
    S = theta S + G                                                         theta: the chunk's mean
    W = W + O(S)                                                            O: Newton-Schulz
    W = W, each row scaled to the norm that it has in W_0

Where the paper leaves a choice open, this follows its language model's code, except that queries
and keys of the memory are not rotated: the code has a switch for it and a remark that it works, and
a rotated key is not found again from another distance.

Legend: B batch, T tokens of this call, C tokens of the chunk so far, H memory heads, E head size, O
and I the rows and columns of a weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory.newton_schulz import newton_schulz
from atlas_bench.memory.spec import state_dtype
from atlas_bench.memory.state import without_autocast
from atlas_bench.models.attention import Attention, AttentionState
from atlas_bench.models.mixer import Mixer
from atlas_bench.models.neural_memory import unit
from atlas_bench.models.settings import ModelSettings, ScaleSettings

BASE_RATE = 1e-3  # of a token at the start; O makes all but the rates' proportions irrelevant
NAMES = ("W1", "W2", "W3")
ROW_EPSILON = 1e-5  # added to the norm of a row that is divided by it

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class FastWeights:
    """W and S (B, H, O, I) in the state's type, and what the chunk's end needs of its tokens.

    ``pending``: k and v (B, H, C, E), rates (B, H, C, 3) and momentum (B, H, C).
    """

    weights: Weights
    momentum: Weights
    pending: dict[str, Tensor]


@dataclass(frozen=True)
class LargeChunkState:
    """The states of both parts of the layer."""

    attention: AttentionState
    fast: FastWeights


def read(weights: Weights, x_BHTE: Tensor) -> Tensor:
    """f(x) = W2 (silu(W1 x) * W3 x), (B, H, T, E)."""
    w1, w2, w3 = (weights[name].to(x_BHTE.dtype).mT for name in NAMES)
    return (F.silu(x_BHTE @ w1) * (x_BHTE @ w3)) @ w2


def ascent(weights: Weights, tokens: dict[str, Tensor]) -> Weights:
    """G of every weight, (B, H, O, I): the rates' sum of the gradients of <f(k), v>."""
    k, v, rates = tokens["k"], tokens["v"], tokens["rates"].to(tokens["k"].dtype)
    w1, w2, w3 = (weights[name].to(k.dtype) for name in NAMES)
    before, up = k @ w1.mT, k @ w3.mT
    sigma = torch.sigmoid(before)
    gate, back = before * sigma, v @ w2
    slope = sigma * (1 + before * (1 - sigma))
    factors = {"W1": (back * up * slope, k), "W2": (v, gate * up), "W3": (back * gate, k)}
    return {
        name: ((left * rates[..., i, None]).mT @ right).to(weights[name].dtype)
        for i, (name, (left, right)) in enumerate(factors.items())
    }


def update(
    initial: Weights, fast: FastWeights, steps: int, coefficients: str
) -> tuple[Weights, Weights]:
    """W and S after the chunk whose tokens are ``fast.pending``; ``initial`` (H, O, I) is W_0."""
    theta = fast.pending["momentum"].mean(-1)[..., None, None]
    weights, momentum = {}, {}
    for name, gradient in ascent(fast.weights, fast.pending).items():
        momentum[name] = theta * fast.momentum[name] + gradient
        step = newton_schulz(momentum[name], steps, coefficients, fast.pending["v"].dtype)
        moved = fast.weights[name] + step
        norm = torch.linalg.vector_norm(moved, dim=-1, keepdim=True) + ROW_EPSILON
        first = torch.linalg.vector_norm(initial[name].to(moved.dtype), dim=-1, keepdim=True)
        weights[name] = moved / norm * first
    return weights, momentum


class LargeChunkMemory(Mixer):
    """Sliding-window attention plus a SwiGLU memory, from the same queries, keys and values.

    Uses of ``model.memory`` the chunk, the expansion and the settings of Newton-Schulz; the heads
    of the memory are ``scale.memory_heads``.
    """

    check = Attention.check

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__()
        width, memory = scale.width, model.memory
        self.heads = scale.memory_heads or scale.heads
        self.chunk = memory.chunk
        self.how = (memory.newton_schulz_steps, memory.newton_schulz_coefficients)
        self.attention = Attention(model, scale, inner=True)
        self.norms = nn.Parameter(torch.ones(2, 1, 1, width))  # of q and k, for both parts
        self.scales = nn.Parameter(torch.ones(2, 1, 1, width))  # of q and k, for the memory
        self.offsets = nn.Parameter(torch.zeros(2, 1, 1, width))
        self.rates = nn.Linear(width, 3 * self.heads)
        self.momentum = nn.Linear(width, self.heads)
        self.read_scale = nn.Linear(width, self.heads)
        size = width // self.heads
        self.read_norm = nn.Parameter(torch.ones(size))
        self.out = nn.Linear(width, width, bias=False)
        hidden = memory.expansion * size
        shapes = {"W1": (hidden, size), "W2": (size, hidden), "W3": (hidden, size)}
        self.initial = nn.ParameterDict(
            {n: nn.Parameter(torch.randn(self.heads, *s) * s[1] ** -0.5) for n, s in shapes.items()}
        )

    def initialise(self) -> None:
        """All rates start near `BASE_RATE`."""
        nn.init.constant_(self.rates.bias, math.log(math.expm1(BASE_RATE)))

    def init_state(self, batch: int) -> LargeChunkState:
        weights = {
            name: w.to(state_dtype(w.dtype)).expand(batch, *w.shape)
            for name, w in self.initial.items()
        }
        empty = self.out.weight.new_zeros(batch, self.heads, 0, self.read_norm.shape[0])
        pending = {"k": empty, "v": empty, "rates": empty[..., :3], "momentum": empty[..., 0]}
        zeros = {name: torch.zeros_like(w) for name, w in weights.items()}
        return LargeChunkState(
            self.attention.init_state(batch), FastWeights(weights, zeros, pending)
        )

    def state_bytes(self, batch: int, length: int) -> int:
        """The cache, W and S, and the tokens of a chunk that has not ended; does not grow."""
        weights = sum(w.numel() for w in self.initial.values())
        tokens = min(length, self.chunk - 1) * self.heads * (2 * self.read_norm.shape[0] + 4)
        return self.attention.state_bytes(batch, length) + 4 * batch * (2 * weights + tokens)

    def forward(self, x: Tensor, state: LargeChunkState) -> tuple[Tensor, LargeChunkState]:
        width = x.shape[-1]
        *qk, v = self.attention.qkv(x).split(width, -1)
        qk = F.rms_norm(torch.stack(qk), (width,), eps=1e-6) * self.norms.to(v.dtype)
        attended, attention = self.attention.attended(torch.cat([*qk, v], -1), state.attention)
        qk = F.silu(qk * self.scales.to(v.dtype) + self.offsets.to(v.dtype))
        # Small rates have a few bits in bfloat16.
        precise = state_dtype(v.dtype)
        tokens = {
            "q": unit(self._heads(qk[0])),
            "k": unit(self._heads(qk[1])),
            "v": self._heads(F.silu(v)),
            "rates": self._heads(F.softplus(self.rates(x).to(precise))),
            "momentum": torch.sigmoid(self.momentum(x).to(precise)).transpose(1, 2),
        }
        with without_autocast(x):
            y, fast = self.run_chunks(tokens, state.fast)
        y = F.rms_norm(y, y.shape[-1:], eps=1e-6) * self.read_norm.to(y.dtype)
        y = y.transpose(1, 2) * F.silu(self.read_scale(x))[..., None]
        return self.out(attended + y.flatten(2)), LargeChunkState(attention, fast)

    def run_chunks(
        self, tokens: dict[str, Tensor], fast: FastWeights
    ) -> tuple[Tensor, FastWeights]:
        """Read every token (B, H, T, ...), and update W where a chunk ends: y (B, H, T, E)."""
        length, begun = tokens["q"].shape[2], fast.pending["k"].shape[2]
        ends = list(range(self.chunk - begun, length, self.chunk))
        parts = zip(*(x.tensor_split(ends, 2) for x in tokens.values()), strict=True)
        outputs = []
        for part in (dict(zip(tokens, each, strict=True)) for each in parts):
            outputs.append(read(fast.weights, part.pop("q")))
            pending = {
                name: torch.cat([fast.pending[name].to(x.dtype), x], 2) for name, x in part.items()
            }
            fast = replace(fast, pending=pending)
            if pending["k"].shape[2] == self.chunk:
                weights, momentum = update(dict(self.initial), fast, *self.how)
                nothing = {name: x[:, :, :0] for name, x in pending.items()}
                fast = FastWeights(weights, momentum, nothing)
        return torch.cat(outputs, 2), fast

    def _heads(self, x_BTW: Tensor) -> Tensor:
        """(B, T, H ...) -> (B, H, T, ...)."""
        return x_BTW.unflatten(-1, (self.heads, -1)).transpose(1, 2)
