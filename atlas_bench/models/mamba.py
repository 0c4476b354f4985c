"""Mamba's block (2312.00752): a selective state space between a convolution and a gate.

    h_t = exp(d_t A) h_(t-1) + d_t x_t B_t';  y_t = h_t C_t + D x_t        (Eq 2a, 2b and 4)

x_t has E = 2 W channels, and each channel has N states with decays of its own. The steps d_t, B_t
and C_t are made of x_t (Algorithm 2). A is -1 to -N at the start (S4D-Real, section 3.6). As in the
authors' code, d_t B_t takes the place of Eq 4's (d_t A)^-1 (exp(d_t A) - 1) d_t B_t, and D is
learnt. As in every memory here, C starts as B, and the convolution as a plain sum.

It runs on torch alone, on a CPU and on a GPU: flash-linear-attention has no kernel for it.

Legend: B batch, T tokens of this call, E channels, N states of a channel, R rank of the steps, W
width, Q chunks of a piece, L tokens of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from atlas_bench.memory.spec import state_dtype
from atlas_bench.models.convolution import CONVOLUTION, convolve
from atlas_bench.models.mixer import Mixer
from atlas_bench.models.settings import ModelSettings, ScaleSettings

STATES = 16  # N
CHUNK = 16  # L
PIECE = 256  # tokens whose states are in memory together, Q L


@dataclass(frozen=True)
class MambaState:
    """The convolution's last inputs (B, CONVOLUTION - 1, E), and h (B, E, N), at least float32."""

    tail: Tensor
    hidden: Tensor


class Mamba(Mixer):
    """The block with its own gate. As every mixer here it is followed by a feed-forward."""

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__()
        inner, self.rank = 2 * scale.width, math.ceil(scale.width / 16)
        self.projections = nn.Linear(scale.width, 2 * inner, bias=False)
        self.convolution = nn.Parameter(torch.full((inner, CONVOLUTION), 0.5))
        self.convolution_bias = nn.Parameter(torch.zeros(inner))
        self.selection = nn.Linear(inner, self.rank + 2 * STATES, bias=False)
        self.step = nn.Linear(self.rank, inner)
        rates = torch.arange(1, STATES + 1, dtype=torch.float32).log()
        self.log_rate = nn.Parameter(rates.repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, scale.width, bias=False)

    def initialise(self) -> None:
        """Steps start log-uniform in 0.001..0.1 (section 3.6), and C as B."""
        nn.init.uniform_(self.step.weight, -(self.rank**-0.5), self.rank**-0.5)
        steps = torch.empty_like(self.step.bias).uniform_(math.log(0.001), math.log(0.1)).exp()
        with torch.no_grad():
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus undoes it
            write = self.selection.weight[self.rank : self.rank + STATES]
            self.selection.weight[self.rank + STATES :] = write

    def init_state(self, batch: int) -> MambaState:
        weight, inner = self.out.weight, self.out.in_features
        hidden = weight.new_zeros(batch, inner, STATES, dtype=state_dtype(weight.dtype))
        return MambaState(weight.new_zeros(batch, CONVOLUTION - 1, inner), hidden)

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the state in float32; does not grow with ``length``."""
        return 4 * batch * self.out.in_features * (CONVOLUTION - 1 + STATES)

    def forward(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        x, gate = self.projections(x).chunk(2, -1)
        x, tail = convolve(self.convolution, x, state.tail)
        x = F.silu(x + self.convolution_bias.to(x.dtype))
        step, write, read = self.selection(x).split([self.rank, STATES, STATES], -1)
        wide = state.hidden.dtype
        y, hidden = selective_scan(
            x.to(wide),
            F.softplus(F.linear(step, self.step.weight).to(wide) + self.step.bias),
            -self.log_rate.exp(),
            write.to(wide),
            read.to(wide),
            state.hidden,
        )
        y = y.to(x.dtype) + self.skip.to(x.dtype) * x
        return self.out(y * F.silu(gate)), MambaState(tail, hidden)


def selective_scan(
    x_BTE: Tensor,
    step_BTE: Tensor,
    rate_EN: Tensor,
    write_BTN: Tensor,
    read_BTN: Tensor,
    hidden_BEN: Tensor,
) -> tuple[Tensor, Tensor]:
    """y (B, T, E) without D x, and h (B, E, N) after the tokens; ``rate_EN`` is A, below 0.

    The states of a piece are made again in the backward pass.
    """
    outputs = []
    parts = (part.split(PIECE, 1) for part in (x_BTE, step_BTE, write_BTN, read_BTN))
    for x, step, write, read in zip(*parts, strict=True):
        arguments = x, step, rate_EN, write, read, hidden_BEN
        if torch.is_grad_enabled():
            y, hidden_BEN = checkpoint(_scan_piece, *arguments, use_reentrant=False)
        else:
            y, hidden_BEN = _scan_piece(*arguments)
        outputs.append(y)
    return torch.cat(outputs, 1), hidden_BEN


def _scan_piece(
    x: Tensor, step: Tensor, rate_EN: Tensor, write: Tensor, read: Tensor, hidden_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token within a chunk, for all chunks at once: first from h = 0, which gives h where
    each chunk begins, then from there. Every factor is a decay, at most 1."""
    length = x.shape[1]
    size = min(CHUNK, length)
    padding = -length % size  # a step of 0 leaves h as it is
    x, step, write, read = (
        F.pad(part, (0, 0, 0, padding)).unflatten(1, (-1, size)) for part in (x, step, write, read)
    )
    decays_BQLEN = (step[..., None] * rate_EN).exp()
    inputs_BQLEN = (step * x)[..., None] * write[..., None, :]
    decays, inputs = decays_BQLEN.unbind(2), inputs_BQLEN.unbind(2)
    left_BQEN = inputs[0]
    for decay, new in zip(decays[1:], inputs[1:], strict=True):
        left_BQEN = torch.addcmul(new, decay, left_BQEN)
    kept_BQEN = (step.sum(2)[..., None] * rate_EN).exp()
    starts = []
    for kept, left in zip(kept_BQEN.unbind(1), left_BQEN.unbind(1), strict=True):
        starts.append(hidden_BEN)
        hidden_BEN = torch.addcmul(left, kept, hidden_BEN)
    hidden_BQEN, outputs = torch.stack(starts, 1), []
    for decay, new, read_BQN in zip(decays, inputs, read.unbind(2), strict=True):
        hidden_BQEN = torch.addcmul(new, decay, hidden_BQEN)
        outputs.append((hidden_BQEN @ read_BQN[..., None])[..., 0])
    return torch.stack(outputs, 2).flatten(1, 2)[:, :length], hidden_BEN
