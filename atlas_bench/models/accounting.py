"""What a model costs: parameters by part, state by length, floating-point operations per token.

Everything is counted on the model itself, on torch's meta device, which stores no numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.models.settings import ModelSettings, ScaleSettings

LENGTHS = {"4k": 4096, "128k": 131072, "10M": 10_000_000}
COUNTED_TOKENS = 512  # tokens of the sequence over which operations are counted


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
        forward, training = _operations(network, tokens)
    states = {name: network.state_bytes(1, length) for name, length in LENGTHS.items()}
    return Account(
        parameters=parameters_by_part(network),
        state_bytes=states,
        grows=states["10M"] > states["128k"],
        forward_operations=forward,
        training_operations=training,
    )


def parameters_by_part(model: LanguageModel) -> dict[str, int]:
    """Parameters of the embedding, the mixers without their initial memories, the initial memories,
    the feed-forwards, the head (0 if it is the embedding), a readout, and the norms."""
    memories = sum(p.numel() for n, p in model.named_parameters() if ".initial." in n)
    feed_forwards = [block.feed_forward for block in model.blocks if block.feed_forward is not None]
    parts = {
        "embedding": count_parameters(model.embedding),
        "mixers": sum(count_parameters(block.mixer) for block in model.blocks) - memories,
        "initial memories": memories,
        "feed-forward": sum(count_parameters(part) for part in feed_forwards),
        "head": 0 if model.head is None else count_parameters(model.head),
    }
    if model.readout is not None:
        parts["readout"] = count_parameters(model.readout)
    return parts | {"norms": count_parameters(model) - sum(parts.values())}


def _operations(model: LanguageModel, length: int) -> tuple[float, float]:
    """FLOPs of matrix products per token: the forward pass with logits, and a training step."""
    tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
    flops = []
    for training in (False, True):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            hidden, _ = model(tokens)
            logits = model.logits(hidden)
            if training:
                logits.sum().backward()
        flops.append(counter.get_total_flops() / length)
    return flops[0], flops[1]


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
