"""Mamba-2, Kimi Delta Attention and MesaNet: mixers around kernels of flash-linear-attention.

Only the recurrences come from the library. The layers are written here, after the papers and with
the sizes and the start of the library's own layers, because those change their caches in place and
Mamba-2's layer does not accept a second piece of a sequence. As in NeuralMemory, to which they are
compared, queries start as keys and the convolutions as plain sums. The kernels need a GPU; on a
CPU the layers are tested with the recurrences that the library documents.

Legend: B batch, T tokens of this call, H heads, K key size, V value size, C convolved channels, W
width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.memory import fla
from atlas_bench.memory.spec import state_dtype
from atlas_bench.models.convolution import CONVOLUTION, convolve
from atlas_bench.models.mixer import Mixer
from atlas_bench.models.neural_memory import unit
from atlas_bench.models.settings import ModelSettings, ScaleSettings

# Products of a state with a vector per token. simple_gla: a write and a read. kda: also an error.
# mesa_net: two writes, a read, a first residual and 30 steps of conjugate gradients.
PRODUCTS = {"simple_gla": 2, "kda": 3, "mesa_net": 34}


@dataclass(frozen=True)
class LibraryState:
    """The convolution's last inputs (B, CONVOLUTION - 1, C), the kernel's states (B, H, K, V)."""

    tail: Tensor
    recurrent: tuple[Tensor, ...]


class LibraryMixer(Mixer):
    """x -> projections, the first of them convolved -> kernel -> out.

    ``convolved`` and ``plain`` are the sizes of the projections, ``states`` is (H, K, V) of each
    state, ``largest_head`` the largest head size that the kernel accepts.
    """

    largest_head: ClassVar[int] = 256

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        """The kernels accept heads of even sizes up to `largest_head`."""
        size = scale.width // scale.heads
        if size % 2 or size > cls.largest_head:
            raise ValueError(
                f"scale.heads={scale.heads} gives heads of size {size}, and the kernel of "
                f"{cls.__name__} takes even sizes up to {cls.largest_head}; use more or fewer heads"
            )

    @classmethod
    def match_state(
        cls, model: ModelSettings, scale: ScaleSettings
    ) -> tuple[ModelSettings, ScaleSettings]:
        """Raises ValueError: the papers fix the sizes."""
        raise ValueError(
            f"model.match=state cannot match {model.name}, whose state has the size that its paper "
            f"gives it; use model.match=parameters"
        )

    @classmethod
    def unavailable_reason(cls, device: str) -> str | None:
        """The kernels need the library and a GPU."""
        reason = fla.unavailable_reason()
        if reason is None and device == "cpu":
            reason = "which need a GPU; use hardware.device=auto or cuda"
        return None if reason is None else f"runs on flash-linear-attention's kernels, {reason}"

    def __init__(
        self, width: int, convolved: list[int], plain: list[int], states: list[tuple[int, int, int]]
    ) -> None:
        super().__init__()
        self.convolved, self.plain, self.states = convolved, plain, states
        self.projections = nn.Linear(width, sum(convolved) + sum(plain), bias=False)
        self.convolution = nn.Parameter(torch.full((sum(convolved), CONVOLUTION), 0.5))

    def initialise(self) -> None:
        """Queries start as keys."""
        with torch.no_grad():
            keys = self.convolved[1]
            self.projections.weight[:keys] = self.projections.weight[keys : 2 * keys]

    def init_state(self, batch: int) -> LibraryState:
        weight = self.projections.weight
        kept = weight.new_zeros(batch, CONVOLUTION - 1, sum(self.convolved))
        dtype = state_dtype(weight.dtype)
        zeros = (weight.new_zeros(batch, *shape, dtype=dtype) for shape in self.states)
        return LibraryState(kept, tuple(zeros))

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the state in float32; does not grow with ``length``."""
        tail = (CONVOLUTION - 1) * sum(self.convolved)
        return 4 * batch * (tail + sum(math.prod(shape) for shape in self.states))

    def forward(self, x: Tensor, state: LibraryState) -> tuple[Tensor, LibraryState]:
        mixed, plain = self.projections(x).tensor_split([sum(self.convolved)], -1)
        mixed, tail = convolve(self.convolution, mixed, state.tail)
        mixed = self._activated(mixed).split(self.convolved, -1)
        y, recurrent = self._mix(x, (*mixed, *plain.split(self.plain, -1)), state.recurrent)
        return self.out(y), LibraryState(tail, recurrent)

    def _activated(self, mixed_BTC: Tensor) -> Tensor:
        return F.silu(mixed_BTC)

    @abstractmethod
    def _mix(self, x: Tensor, parts: tuple, recurrent: tuple) -> tuple[Tensor, tuple]:
        """The input of ``out``, and the states after these tokens. ``parts``: the projections."""


class Mamba2(LibraryMixer):
    """Mamba-2 (2405.21060 section 7): S_t = exp(-A dt) S + B (dt x)', y = C S + D x.

    It is gated linear attention with scalar decays, twice the width, and one B and C of size 128
    for all heads.
    """

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        inner, features, heads = 2 * scale.width, 128, 2 * scale.heads
        value = scale.width // scale.heads
        super().__init__(
            scale.width,
            [features, features, inner],
            [inner, heads],
            [(heads, features, value)],
        )
        self.heads = heads
        self.convolution_bias = nn.Parameter(torch.zeros(sum(self.convolved)))
        self.log_rate, self.step_bias = _log_rate(heads), _step_bias(heads)
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, scale.width, bias=False)

    def _activated(self, mixed_BTC: Tensor) -> Tensor:
        return F.silu(mixed_BTC + self.convolution_bias.to(mixed_BTC.dtype))

    def _mix(self, x: Tensor, parts: tuple, recurrent: tuple) -> tuple[Tensor, tuple]:
        read, write, values, gate, step = parts
        read, write = (part.unsqueeze(2).expand(-1, -1, self.heads, -1) for part in (read, write))
        v = values.unflatten(-1, (self.heads, -1))
        step = F.softplus(_wide(step) + self.step_bias)
        y, state = _recurrence(
            "simple_gla",
            q=read,
            k=write,
            v=(step[..., None] * v).to(v.dtype),
            g=-self.log_rate.exp() * step,
            scale=1.0,
            initial_state=recurrent[0],
        )
        y = (y + self.skip.to(y.dtype)[:, None] * v).flatten(2)
        y = F.rms_norm(y * F.silu(gate), y.shape[-1:], eps=1e-5) * self.norm
        return y, (state,)


class KimiDeltaAttention(LibraryMixer):
    """Kimi Delta Attention (2510.26692): S_t = (I - b k k') Diag(a) S + b k v', y = q S.

    The keep-rate a, one per feature, and the output gate come from low-rank maps.
    """

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        width, heads, size = scale.width, scale.heads, scale.width // scale.heads
        super().__init__(width, [width] * 3, [size, size, heads], [(heads, size, size)])
        self.heads = heads
        self.keep = nn.Linear(size, width, bias=False)
        self.gate = nn.Linear(size, width)
        self.log_rate, self.step_bias = _log_rate(heads), _step_bias(width)
        self.norm = nn.Parameter(torch.ones(size))
        self.out = nn.Linear(width, width, bias=False)

    def _mix(self, x: Tensor, parts: tuple, recurrent: tuple) -> tuple[Tensor, tuple]:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts[:3])
        keep, gate, beta = parts[3:]
        step = F.softplus(_wide(self.keep(keep)) + self.step_bias)
        y, state = _recurrence(
            "kda",
            q=unit(q),
            k=unit(k),
            v=v,
            g=-self.log_rate.exp()[:, None] * step.unflatten(-1, (self.heads, -1)),
            beta=_wide(beta).sigmoid(),
            scale=1.0,
            initial_state=recurrent[0],
        )
        y = F.rms_norm(y, y.shape[-1:], eps=1e-5) * self.norm
        return y.flatten(2) * torch.sigmoid(self.gate(gate)), (state,)


class MesaNet(LibraryMixer):
    """MesaNet (2506.05233): the least-squares memory of all tokens so far, weighted by their decay.

    R_t = a R + b k k', S_t = a S + b k v', y = q (R_t + Diag(l))^-1 S_t; the inverse takes 30 steps
    of conjugate gradients.
    """

    largest_head = 128

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        width, heads, size = scale.width, scale.heads, scale.width // scale.heads
        super().__init__(width, [width] * 2, [width], [(heads, size, size)] * 2)
        self.heads = heads
        self.opening = nn.Linear(width, 2 * heads)
        # l = softplus(ridge) + 1/4 starts at 1.
        self.ridge = nn.Parameter(torch.full((heads, size), math.log(math.expm1(0.75))))
        self.norm = nn.Parameter(torch.ones(size))
        self.out = nn.Linear(width, width, bias=False)

    def initialise(self) -> None:
        """Queries start as keys, and the gates half open."""
        super().initialise()
        nn.init.zeros_(self.opening.bias)

    def _mix(self, x: Tensor, parts: tuple, recurrent: tuple) -> tuple[Tensor, tuple]:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        keep, beta = _wide(self.opening(x)).chunk(2, -1)
        y, *states = _recurrence(
            "mesa_net",
            q=unit(q),
            k=unit(k),
            v=v,
            g=F.logsigmoid(keep),
            beta=beta.sigmoid(),
            lamb=F.softplus(_wide(self.ridge)) + 0.25,
            h_kk_init=recurrent[0],
            h_kv_init=recurrent[1],
            max_CG_iteration=30,
        )
        y = F.rms_norm(y, y.shape[-1:], eps=1e-5) * self.norm
        return y.flatten(2), tuple(states)


def _wide(x: Tensor) -> Tensor:
    """x in the state's type, float32 or float64, before it goes through exponentials."""
    return x.to(state_dtype(x.dtype))


def _log_rate(count: int) -> nn.Parameter:
    """log A with A uniform in 1..16 (Mamba-2)."""
    return nn.Parameter(torch.empty(count).uniform_(1, 16).log())


def _step_bias(count: int) -> nn.Parameter:
    """The inverse softplus of steps that are log-uniform in 0.001..0.1 (Mamba)."""
    step = torch.empty(count).uniform_(math.log(0.001), math.log(0.1)).exp()
    return nn.Parameter(step + torch.log(-torch.expm1(-step)))


def _recurrence(name: str, **arguments: object) -> tuple[Tensor, ...]:
    """The kernel's result: y (B, T, H, V) and the states after the tokens."""
    q, k, v = arguments["q"], arguments["k"], arguments["v"]
    if not q.is_meta:
        return fla.call(name, output_final_state=True, **arguments)
    # models/accounting.py counts here: as many products as token by token, without numbers.
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    state = k.mT @ v
    y = sum(q @ state for _ in range(PRODUCTS[name] - 1)).transpose(1, 2)
    return (y, state, state) if name == "mesa_net" else (y, state)
