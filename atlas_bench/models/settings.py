"""The settings of a model: its mixers, its scale and what is matched between models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import get_type_hints

from atlas_bench.memory.spec import MemorySpec

MATCH = ("none", "parameters", "state")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def _spec(settings: MemorySettings) -> MemorySpec:
    """The checked spec; a ValueError names the field that is wrong."""
    return MemorySpec(**asdict(settings))


# MemorySpec is frozen, but a config must accept overrides: the same fields, not frozen.
_HINTS = get_type_hints(MemorySpec)
MemorySettings = make_dataclass(
    "MemorySettings",
    [(f.name, _HINTS[f.name], field(default=f.default)) for f in fields(MemorySpec)],
    namespace={"spec": _spec, "__module__": __name__},
)


@dataclass
class AttentionSettings:
    """Softmax attention with rotary positions (RoPE, 2104.09864)."""

    window: int | None = None  # tokens a query sees, itself included; null is full causal
    rope_base: float = 10000.0  # base of the rotation's wavelengths
    # Convolution over 4 tokens on q, k and v, as in memories (Based, 2402.18668); null: scale's.
    convolution: bool | None = None
    persistent_tokens: int = 0  # learnt keys and values that every query sees (Titans section 3.3)


@dataclass
class HubSettings:
    """A pretrained model of the hub; ``model.name`` is its repository or folder."""

    dtype: str = "auto"  # weights' type: auto (the model's own) | float32 | bfloat16 | float16
    revision: str = "main"  # revision of the repository
    trust_remote_code: bool = False  # whether code of the repository may run
    max_length: int | None = None  # tokens it may see; null: as many as it has positions
    batch_size: int = 8  # prompts read together
    # What BABILong's prompts contain besides context and question.
    instruction: bool = True  # what the question will be about
    examples: bool = True  # two or three answered questions
    post_prompt: bool = True  # how to answer


@dataclass
class ModelSettings:
    """One preset of conf/model."""

    name: str = "atlas"  # the preset; with model=hf a repository or folder
    mixers: list[str] = field(default_factory=lambda: ["neural_memory"])  # of the layers, in turn
    write_gate: bool = True  # whether a gate decides how much a token writes; else all write 1
    # How far the first updates may move, after TTT's (2407.04620). An orthogonalised update has the
    # norm it is given; a gradient step on two layers moves by the product of their norms.
    initial_step: float = 0.5
    coarse_factor: int = 1  # times the memory's chunk, in coarse stages of training
    segment: int = 64  # tokens per segment of memory_as_context
    # parameters: narrow the feed-forward to the Transformer's parameter count. state: size the
    # memory (or the attention's window) to width^2 numbers a layer, those of a full matrix.
    match: str = "parameters"
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    hub: HubSettings | None = None  # a pretrained model, which uses nothing of the above; or null


@dataclass
class ScaleSettings:
    """One size of conf/scale (ATLAS Table 7); the memory's own sizes default to the heads'."""

    name: str = "tiny"  # the chosen file
    width: int = 64  # size of the residual stream
    layers: int = 2  # each a mixer and a feed-forward
    heads: int = 4  # heads of attention, and of memories if memory_heads is null
    feed_forward: int | None = None  # hidden size of the Transformer's; null: 8/3 of width; 0: none
    memory_heads: int | None = None  # heads of memories; null: as heads
    memory_key_dim: int | None = None  # size of a key before an expanding phi; null: as the values
    attention_window: int = 64  # tokens of sliding windows and segments (2048 in ATLAS section 6)
    attention_convolution: bool = False  # whether attention has the short convolution of memories
    tie_embeddings: bool = True  # whether the output layer is the embedding


def has_convolution(model: ModelSettings, scale: ScaleSettings) -> bool:
    """Whether the model's attention has a short convolution."""
    if model.attention.convolution is None:  # memory_as_context has none: its check says why
        return scale.attention_convolution and "memory_as_context" not in model.mixers
    return model.attention.convolution
