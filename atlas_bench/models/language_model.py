"""The language model around any mixer: embedding, pre-norm blocks, head.

One ``forward(tokens, state)`` serves training, prefill and decoding: how a sequence is cut into
calls never changes what comes out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from atlas_bench.memory.features import feature_dim
from atlas_bench.models.attention import Attention, AttentionState
from atlas_bench.models.hybrids import (
    HybridState,
    MemoryAsContext,
    MemoryAsContextState,
    MemoryAsGate,
    MemoryAsLayer,
)
from atlas_bench.models.library_mixers import LIBRARY_CLASSES, LibraryMixer, LibraryState
from atlas_bench.models.neural_memory import NeuralMemory, NeuralMemoryState, memory_key_dim
from atlas_bench.models.readout import LastReadout
from atlas_bench.models.settings import (
    ModelSettings,
    ScaleSettings,
    check_settings,
    needs_library,
)

MIXER_CLASSES = {
    "attention": Attention,
    "neural_memory": NeuralMemory,
    "memory_as_context": MemoryAsContext,
    "memory_as_gate": MemoryAsGate,
    "memory_as_layer": MemoryAsLayer,
    **LIBRARY_CLASSES,
}
# Scores of next tokens in memory at a time, a quarter of a gigabyte: with 32,000 tokens in the
# vocabulary, those of a batch of half a million positions would take 64.
LOGITS_AT_ONCE = 2**26
LayerState = AttentionState | NeuralMemoryState | HybridState | MemoryAsContextState | LibraryState


@dataclass(frozen=True)
class ModelState:
    """One state per layer; of constant size for recurrent models."""

    layers: tuple[LayerState, ...]

    def detach(self) -> ModelState:
        return ModelState(tuple(layer.detach() for layer in self.layers))

    def select(self, rows: Sequence[int]) -> ModelState:
        """The state of the sequences ``rows`` of the batch, each as often as it is named."""
        return _select(self, rows, {})


def _select(part: Any, rows: Sequence[int], done: dict[int, Tensor]) -> Any:
    """Rows of the first dimension, the batch, of every tensor in ``part``.

    ``done``: what was taken of each tensor, because a state may hold one under two names.
    """
    if isinstance(part, Tensor):
        if id(part) not in done:
            done[id(part)] = part[torch.as_tensor(rows, device=part.device)]
        return done[id(part)]
    if is_dataclass(part):
        named = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **_select(named, rows, done))
    if isinstance(part, dict):
        return {name: _select(value, rows, done) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(_select(value, rows, done) for value in part)
    return part


class FeedForward(nn.Module):
    """SwiGLU (2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)), which ``hidden`` 0 leaves out."""

    def __init__(self, mixer: str, model: ModelSettings, scale: ScaleSettings, hidden: int) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(scale.width, eps=1e-6)
        self.mixer = MIXER_CLASSES[mixer](model, scale)
        self.feed_forward = None
        if hidden:
            self.feed_forward_norm = nn.RMSNorm(scale.width, eps=1e-6)
            self.feed_forward = FeedForward(scale.width, hidden)

    def forward(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState, dict]:
        y, state, *gates = self.mixer(self.mixer_norm(x), state)
        x = x + y
        if self.feed_forward is not None:
            x = x + self.feed_forward(self.feed_forward_norm(x))
        return x, state, gates[0] if gates else {}


class LanguageModel(nn.Module):
    """Tokens in, hidden states out; `logits` turns hidden states into scores of next tokens.

    ``readout="last"``: all hidden states of a call are made from the last one, for tasks that ask
    for the whole sequence at its end.
    """

    def __init__(
        self,
        model: ModelSettings,
        scale: ScaleSettings,
        *,
        vocab_size: int,
        hidden: int,
        readout: str = "next",
    ) -> None:
        super().__init__()
        check_settings(model, scale)
        self.spec, self.coarse_factor = model.memory.spec(), model.coarse_factor
        self.embedding = nn.Embedding(vocab_size, scale.width)
        mixers = itertools.islice(itertools.cycle(model.mixers), scale.layers)
        self.blocks = nn.ModuleList(Block(mixer, model, scale, hidden) for mixer in mixers)
        self.readout = LastReadout(scale.width) if readout == "last" else None
        self.norm = nn.RMSNorm(scale.width, eps=1e-6)
        self.head = None
        if not scale.tie_embeddings:
            self.head = nn.Linear(scale.width, vocab_size, bias=False)
        self.gates: list[dict[str, Tensor]] = []  # of the last forward, for penalties and logs
        self.apply(_initialise)
        for block in self.blocks:  # residual branches start small (GPT-2)
            branches = [block.mixer.out]
            if block.feed_forward is not None:
                branches.append(block.feed_forward.down)
            for out in branches:
                with torch.no_grad():
                    out.weight.mul_((2 * scale.layers) ** -0.5)

    def init_state(self, batch: int) -> ModelState:
        """The state before the first token."""
        return ModelState(tuple(block.mixer.init_state(batch) for block in self.blocks))

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """tokens (B, T) int64 and the past -> hidden (B, T, width) and the past with them."""
        state = self.init_state(tokens.shape[0]) if state is None else state
        x = self.embedding(tokens)
        layers, self.gates = [], []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, layer, gates = block(x, layer)
            layers.append(layer)
            self.gates.append(gates)
        if self.readout is not None:
            x = self.readout(x)
        return self.norm(x), ModelState(tuple(layers))

    def set_coarse(self, coarse: bool) -> None:
        """From now on gradients are taken at chunks ``coarse_factor`` times as long, or not.

        A larger chunk is a coarser and easier memory; the parameters are the same.
        """
        factor = self.coarse_factor if coarse else 1
        for module in self.modules():
            if isinstance(module, NeuralMemory):
                module.scale_chunk(self.spec.chunk, factor)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary)."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(hidden, weight)

    def token_losses(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (N, width), targets (N,) int64 -> losses in nats, float32, and the most likely
        tokens, both (N,).

        Where the logits are too many they come in parts, and again for the gradient.
        """
        size = max(1, LOGITS_AT_ONCE // self.embedding.num_embeddings)
        if len(hidden) <= size:
            return self._token_losses(hidden, targets)
        parts = [
            checkpoint(self._token_losses, *part, use_reentrant=False)
            for part in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        losses, likely = zip(*parts, strict=True)
        return torch.cat(losses), torch.cat(likely)

    def _token_losses(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(hidden).float()
        return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1)

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the state after ``length`` tokens, float32."""
        return sum(block.mixer.state_bytes(batch, length) for block in self.blocks)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, (NeuralMemory, LibraryMixer)):  # after its own linear layers
        module.initialise()


def swiglu_hidden(width: int) -> int:
    """The Transformer's feed-forward size: 8/3 of the width, in eights (Llama's convention)."""
    return 8 * round(width * 8 / 3 / 8)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build_model(
    model: ModelSettings,
    scale: ScaleSettings,
    *,
    vocab_size: int,
    seed: int,
    readout: str = "next",
) -> LanguageModel:
    """A model initialised from ``seed``, of the size that ``model.match`` asks for.

    ``parameters``: the feed-forward of a model whose mixer has more parameters than attention is
    narrowed until the totals agree as nearly as whole units allow; a scale without a feed-forward
    (MQAR's) has nothing to narrow and compares models of equal width. ``state``: `match_state`.
    Raises ValueError where no choice comes near.
    """
    check_settings(model, scale)
    if model.match == "state":
        model, scale = match_state(model, scale)
    hidden = scale.feed_forward
    if hidden is None:
        hidden = swiglu_hidden(scale.width)
    if hidden and model.match == "parameters" and model.mixers != ["attention"]:
        hidden = _matched_hidden(model, scale, hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(model, scale, vocab_size=vocab_size, hidden=hidden, readout=readout)


def _matched_hidden(model: ModelSettings, scale: ScaleSettings, hidden: int) -> int:
    with torch.device("meta"):
        attention = count_parameters(Attention(ModelSettings(), scale))
        turn = list(itertools.islice(itertools.cycle(model.mixers), scale.layers))
        counts = {name: count_parameters(MIXER_CLASSES[name](model, scale)) for name in set(turn)}
    mixer = round(sum(counts[name] for name in turn) / len(turn))
    matched = hidden - round((mixer - attention) / (3 * scale.width))
    if matched < 1:
        raise ValueError(
            f"model.match=parameters cannot match {model.name} at scale.name={scale.name}: its "
            f"mixers alone have {mixer:,} parameters a layer; lower model.memory.expansion or "
            f"scale.memory_key_dim, or set model.match=none"
        )
    return matched


STATE_TOLERANCE = 0.1  # of the numbers in a memory, beyond which they do not count as matched


def match_state(model: ModelSettings, scale: ScaleSettings) -> tuple[ModelSettings, ScaleSettings]:
    """Settings with which every layer's memory, or else its cache, holds about width^2 numbers.

    Deep memories are matched by their expansion, matrices by the number of heads, attention by its
    window. Raises ValueError where none comes within a tenth.
    """
    wanted = scale.width**2
    if needs_library(model):
        raise ValueError(
            f"model.match=state cannot match {model.name}, whose state has the size that its paper "
            f"gives it; use model.match=parameters"
        )
    if model.mixers == ["attention"]:
        if model.attention.window is None:
            raise ValueError(
                f"model.match=state cannot match {model.name}, whose state grows with the length; "
                f"use model=sliding_window_transformer"
            )
        attention = replace(model.attention, window=max(2, scale.width // 2 + 1))
        return replace(model, attention=attention), scale
    spec = model.memory.spec()
    if spec.network == "matrix":
        tried = [
            (model, replace(scale, memory_heads=heads))
            for heads in range(1, scale.width + 1)
            if scale.width % heads == 0
        ]
    else:
        tried = [
            (replace(model, memory=replace(model.memory, expansion=expansion)), scale)
            for expansion in range(1, 65)
        ]
    found = min(tried, key=lambda pair: abs(memory_numbers(*pair) - wanted))
    numbers = memory_numbers(*found)
    if abs(numbers / wanted - 1) > STATE_TOLERANCE:
        raise ValueError(
            f"model.match=state cannot match {model.name} at scale.name={scale.name}: the nearest "
            f"memory holds {numbers:,} numbers a layer, not {wanted:,}; change scale.memory_heads "
            f"or scale.memory_key_dim, or set model.match=none"
        )
    return found


def memory_numbers(model: ModelSettings, scale: ScaleSettings) -> int:
    """Numbers in one layer's memory, W without S."""
    spec = model.memory.spec()
    heads = scale.memory_heads or scale.heads
    values = scale.width // heads
    inputs = feature_dim(spec, memory_key_dim(model, scale))
    if spec.network == "matrix":
        return heads * values * inputs
    ups = len(spec.weight_names) - 1
    return heads * spec.expansion * values * (values + ups * inputs)
