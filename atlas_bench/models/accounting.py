"""What a model costs: parameters by part, state by length, floating-point operations per token.

Everything is counted on the model itself, on torch's meta device, which stores no numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from atlas_bench.models.build import build_model
from atlas_bench.models.checks import check_settings
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.models.settings import ModelSettings, ScaleSettings

LENGTHS = {"4k": 4096, "128k": 131072, "10M": 10_000_000}
COUNTED_TOKENS = 512  # tokens of the sequence over which operations are counted
ESTIMATED_TOKENS = 128  # the same for an estimate: counting takes time for every token


@dataclass(frozen=True)
class Account:
    """The costs of one model.

    ``state_bytes``: bytes of one sequence's state in float32, by length. ``grows``: whether they
    grow with the length. ``..._operations``: FLOPs of matrix products per token, mean over the
    counted tokens, in the forward pass and in a training step.
    """

    parameters: dict[str, int]
    state_bytes: dict[str, int]
    grows: bool
    forward_operations: float
    training_operations: float

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def account(
    model: ModelSettings,
    scale: ScaleSettings,
    *,
    vocab_size: int,
    readout: str = "next",
    tokens: int = COUNTED_TOKENS,
) -> Account:
    """Raises ValueError for settings that cannot be built."""
    with torch.device("meta"):
        network = build_model(model, scale, vocab_size=vocab_size, seed=0, readout=readout)
    states = {name: network.state_bytes(1, length) for name, length in LENGTHS.items()}
    return Account(
        parameters=parameters_by_part(network),
        state_bytes=states,
        grows=states["10M"] > states["128k"],
        forward_operations=_forward_operations(network, tokens),
        training_operations=_training_operations(network, tokens),
    )


def parameters_of(
    model: ModelSettings, scale: ScaleSettings, *, vocab_size: int, readout: str = "next"
) -> int:
    """The number of parameters, whatever the number of layers, within a layer's feed-forward.

    Raises ValueError for settings that cannot be built.
    """
    network = _one_turn(model, scale, vocab_size, readout)
    layers = sum(map(count_parameters, network.blocks))
    turns = scale.layers / len(network.blocks)
    return count_parameters(network) + round((turns - 1) * layers)


def training_operations(
    model: ModelSettings, scale: ScaleSettings, *, vocab_size: int, readout: str = "next"
) -> float:
    """FLOPs of matrix products per token in a training step, over ESTIMATED_TOKENS tokens.

    One turn of the mixers is counted, because every turn has as many. Raises ValueError for
    settings that cannot be built.
    """
    network = _one_turn(model, scale, vocab_size, readout)
    turns = scale.layers / len(network.blocks)
    whole = _training_operations(network, ESTIMATED_TOKENS)
    network.blocks = nn.ModuleList()
    rest = _training_operations(network, ESTIMATED_TOKENS)
    return rest + turns * (whole - rest)


def _one_turn(
    model: ModelSettings, scale: ScaleSettings, vocab_size: int, readout: str
) -> LanguageModel:
    """The model with one layer for each of its mixers, on the meta device."""
    check_settings(model, scale)
    scale = replace(scale, layers=len(model.mixers))
    with torch.device("meta"):
        return build_model(model, scale, vocab_size=vocab_size, seed=0, readout=readout)


def parameters_by_part(model: LanguageModel) -> dict[str, int]:
    """Parameters of the embedding, the mixers without their initial memories, the initial memories,
    the feed-forwards, the head (0 if it is the embedding), a recurrence over segments, a readout,
    and the norms."""
    memories = sum(p.numel() for n, p in model.named_parameters() if ".initial." in n)
    feed_forwards = [block.feed_forward for block in model.blocks if block.feed_forward is not None]
    parts = {
        "embedding": count_parameters(model.embedding),
        "mixers": sum(count_parameters(block.mixer) for block in model.blocks) - memories,
        "initial memories": memories,
        "feed-forward": sum(count_parameters(part) for part in feed_forwards),
        "head": 0 if model.head is None else count_parameters(model.head),
    }
    recurrence = sum(
        p.numel()
        for n, p in model.named_parameters()
        if n == "memory_tokens" or ".association." in n
    )
    if recurrence:
        parts["memory of segments"] = recurrence
    if model.readout is not None:
        parts["readout"] = count_parameters(model.readout)
    return parts | {"norms": count_parameters(model) - sum(parts.values())}


@torch.no_grad()
def _forward_operations(model: LanguageModel, length: int) -> float:
    """FLOPs of matrix products per token in the forward pass with logits."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.logits(model(torch.zeros(1, length, dtype=torch.long))[0])
    return counter.get_total_flops() / length


def _training_operations(model: LanguageModel, length: int) -> float:
    """FLOPs of matrix products per token in a training step."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.logits(model(torch.zeros(1, length, dtype=torch.long))[0]).sum().backward()
    return counter.get_total_flops() / length


def as_text(name: str, costs: Account) -> str:
    """The costs in a few lines of text."""
    parts = ", ".join(f"{part} {count:,}" for part, count in costs.parameters.items() if count)
    kind = "cache and state" if costs.grows else "state"
    states = ", ".join(f"{length} {size:,}" for length, size in costs.state_bytes.items())
    return (
        f"{name}: {costs.total:,} parameters\n"
        f"  {parts}\n"
        f"  {kind} of one sequence in float32, bytes: {states}\n"
        f"  matrix products, FLOPs a token over {COUNTED_TOKENS} tokens: forward "
        f"{costs.forward_operations:,.0f}, training {costs.training_operations:,.0f}"
    )
