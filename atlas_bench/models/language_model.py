"""The language model around any mixer: embedding, pre-norm blocks, head.

One ``forward(tokens, state)`` serves training, prefill and decoding: how a sequence is cut into
calls does not change the result.

Legend: B batch, T tokens of this call, N positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from atlas_bench.models.mixer import Mixer, MixerState, TrainingStage, mixer_class
from atlas_bench.models.readout import LastReadout
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.models.state import ModelState

# Next-token scores in memory at a time, a quarter of a gigabyte. Without this limit a batch of half
# a million positions with a vocabulary of 32,000 would need 64 gigabytes.
LOGITS_AT_ONCE = 2**26


class FeedForward(nn.Module):
    """SwiGLU (2002.05202)."""

    def __init__(self, width: int, ffn_hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * ffn_hidden, bias=False)
        self.down = nn.Linear(ffn_hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)) unless ``ffn_hidden`` is 0."""

    def __init__(
        self, mixer: str, model: ModelSettings, scale: ScaleSettings, ffn_hidden: int
    ) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(scale.width, eps=1e-6)
        self.mixer: Mixer = mixer_class(mixer)(model, scale)
        self.feed_forward = None
        if ffn_hidden:
            self.feed_forward_norm = nn.RMSNorm(scale.width, eps=1e-6)
            self.feed_forward = FeedForward(scale.width, ffn_hidden)

    def forward(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        y, state = self.mixer(self.mixer_norm(x), state)
        x = x + y
        if self.feed_forward is not None:
            x = x + self.feed_forward(self.feed_forward_norm(x))
        return x, state

    def initialise(self, layers: int) -> None:
        """Residual branches of ``layers`` layers start small (GPT-2)."""
        last_maps = [self.mixer.out]
        if self.feed_forward is not None:
            last_maps.append(self.feed_forward.down)
        with torch.no_grad():
            for linear in last_maps:
                linear.weight.mul_((2 * layers) ** -0.5)


class LanguageModel(nn.Module):
    """Tokens in, hidden states out; `logits` turns hidden states into scores of next tokens.

    ``readout="last"``: all hidden states of a call are made from the last one, for tasks that ask
    for the whole sequence at its end.
    """

    block_class: ClassVar[type[Block]] = Block

    def __init__(
        self,
        model: ModelSettings,
        scale: ScaleSettings,
        *,
        vocab_size: int,
        ffn_hidden: int,
        readout: str = "next",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, scale.width)
        names = itertools.islice(itertools.cycle(model.mixers), scale.layers)
        self.blocks = nn.ModuleList(
            self.block_class(name, model, scale, ffn_hidden) for name in names
        )
        self.readout = LastReadout(scale.width) if readout == "last" else None
        self.norm = nn.RMSNorm(scale.width, eps=1e-6)
        self.head = None
        if not scale.tie_embeddings:
            self.head = nn.Linear(scale.width, vocab_size, bias=False)
        self.apply(_initialise)
        for mixer in self.all_mixers():
            mixer.initialise()
        for block in self.blocks:
            block.initialise(scale.layers)

    @property
    def mixers(self) -> list[Mixer]:
        """One mixer per layer."""
        return [block.mixer for block in self.blocks]

    def all_mixers(self) -> list[Mixer]:
        """The mixers of all layers, and those inside them."""
        return [module for module in self.modules() if isinstance(module, Mixer)]

    def init_state(self, batch: int) -> ModelState:
        """The state before the first token."""
        return tuple(mixer.init_state(batch) for mixer in self.mixers)

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes of the state after ``length`` tokens, float32."""
        return sum(mixer.state_bytes(batch, length) for mixer in self.mixers)

    def forward(self, tokens: Tensor, state: ModelState | None = None) -> tuple[Tensor, ModelState]:
        """tokens (B, T) int64 and the past -> hidden (B, T, width) and the past with them."""
        state = self.init_state(tokens.shape[0]) if state is None else state
        x, state = self.read_blocks(self.embedding(tokens), state)
        if self.readout is not None:
            x = self.readout(x)
        return self.norm(x), state

    def read_blocks(self, x: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """The last block's output for x (B, T, width), and the past with it."""
        layers = []
        for block, layer in zip(self.blocks, state, strict=True):
            x, layer = block(x, layer)
            layers.append(layer)
        return x, tuple(layers)

    @torch.no_grad()
    def first_layer_not_finite(self, tokens: Tensor) -> str:
        """Where the first value that is not finite appears for tokens (B, T), in words."""
        places: list[int] = []

        def look(block: nn.Module, inputs: tuple, outputs: tuple) -> None:
            if not torch.isfinite(outputs[0]).all():
                places.append(list(self.blocks).index(block))

        hooks = [block.register_forward_hook(look) for block in self.blocks]
        try:
            self(tokens)
        finally:
            for hook in hooks:
                hook.remove()
        return f"the output of blocks.{places[0]}" if places else "the logits"

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary)."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(hidden, weight)

    def token_losses(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (N, width), targets (N,) int64 -> losses in nats, float32, and the most likely
        tokens, both (N,).

        If there are too many logits, they are computed in parts, and once more for the gradient.
        """
        size = max(1, LOGITS_AT_ONCE // self.embedding.num_embeddings)
        if len(hidden) <= size:
            return self._token_losses(hidden, targets)
        parts = [
            checkpoint(self._token_losses, *part, use_reentrant=False)
            for part in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _token_losses(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(hidden).float()
        return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1)

    def enter_stage(self, stage: TrainingStage | None) -> None:
        """Tell every mixer the stage of the steps to come; None when training is over."""
        for mixer in self.all_mixers():
            mixer.enter_stage(stage)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """What the mixers add to the loss of the last forward: means over those that do."""
        return _means(mixer.auxiliary_losses() for mixer in self.all_mixers())

    @torch.no_grad()
    def metrics(self, state: ModelState | None) -> dict[str, Tensor]:
        """What the mixers report of the last forward: means over the layers that report it.

        ``state`` is the state after it; None if the batch was read in parts (models/packing.py).
        """
        layers = [None] * len(self.blocks) if state is None else state
        pairs = zip(self.mixers, layers, strict=True)
        return _means(mixer.metrics(layer) for mixer, layer in pairs)


def _means(layers: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each name over the layers that have it."""
    values: dict[str, list[Tensor]] = {}
    for layer in layers:
        for name, value in layer.items():
            values.setdefault(name, []).append(value)
    return {name: torch.stack(layers).mean() for name, layers in values.items()}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
