"""The presets of conf/model, those among them that run without a GPU, and what all must do."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from torch import Tensor

from atlas_bench.config.locations import folder_of
from atlas_bench.memory import MemoryState
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.mixer import mixer_class
from atlas_bench.models.neural_memory import NeuralMemoryState

_FILES = {
    path.stem: path
    for path in sorted((folder_of("conf") / "model").glob("*.yaml"))
    if path.stem not in ("hf", "none")  # pretrained models, and none at all
}


def _needs_gpu(name: str) -> bool:
    mixers = OmegaConf.load(_FILES[name]).get("mixers", [])
    return any(mixer_class(mixer).unavailable_reason("cpu") for mixer in mixers)


NEED_GPU = [name for name in _FILES if _needs_gpu(name)]
ANYWHERE = [name for name in _FILES if name not in NEED_GPU]

# At least one for each kind of mixer and of memory. Tests of a whole command take the others only
# with -m slow.
EACH_KIND = (
    "armt", "atlas", "atlas_mac", "delta_ttt", "deltanet", "gla", "lact", "moneta", "rmt", "samba",
    "sliding_window_transformer", "titans", "titans_cached", "titans_mag", "titans_mal", "ttt_mlp",
)  # fmt: skip
OTHERS_SLOW = [
    pytest.param(name, marks=() if name in EACH_KIND else pytest.mark.slow) for name in ANYWHERE
]
# Presets whose states grow with the tokens.
GROWING = ("transformer", "transformer_conv", "titans_cached", "deltanet_cached")


def memories_of(state: object) -> list[MemoryState]:
    """The memory in a layer's state: a list of one, or empty if the layer has none."""
    inner = getattr(state, "memory", None)
    if isinstance(inner, NeuralMemoryState):
        inner = inner.memory
    return [inner] if isinstance(inner, MemoryState) else []


def assert_every_parameter_learns(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Each gets a gradient other than 0 from the logits; the hidden states of ``tokens``."""
    hidden, _ = model(tokens)
    model.logits(hidden).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    return hidden
