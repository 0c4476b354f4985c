"""The settings of a model: its mixers, its scale and what is matched between models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import get_type_hints

from atlas_bench.config.bounds import bounded
from atlas_bench.memory.spec import CHOICES, MemorySpec


def _spec(settings: MemorySettings) -> MemorySpec:
    """The checked spec; a ValueError names the field that is wrong."""
    return MemorySpec(**asdict(settings))


# MemorySpec is frozen, but a config must accept overrides: the same fields, not frozen.
_HINTS = get_type_hints(MemorySpec)
MemorySettings = make_dataclass(
    "MemorySettings",
    [
        (f.name, _HINTS[f.name], bounded(f.default, one_of=CHOICES.get(f.name, ())))
        for f in fields(MemorySpec)
    ],
    namespace={"spec": _spec, "__module__": __name__},
)


@dataclass
class AttentionSettings:
    """Softmax attention with rotary positions (RoPE, 2104.09864)."""

    # Tokens a query sees, itself included; null is full causal.
    window: int | None = bounded(None, at_least=1)
    rope_base: float = 10000.0  # base of the rotation's wavelengths
    # Convolution over 4 tokens on q, k and v, as in memories (Based, 2402.18668); null: scale's.
    convolution: bool | None = None
    # Learnt keys and values that every query sees (Titans section 3.3).
    persistent_tokens: int = bounded(0, at_least=0)
    norm: bool = False  # memory_as_gate: whether the output is normalised per head (Titans Eq 28)


@dataclass
class RecurrenceSettings:
    """Memory tokens that a whole Transformer carries from segment to segment (RMT, ARMT)."""

    # Memory tokens of a segment; 0: no segments. They need attention alone in model.mixers.
    memory_tokens: int = bounded(0, at_least=0)
    # Size of the keys that memory tokens write to a memory in each layer (ARMT); null: the memory
    # tokens themselves enter the next segment (RMT).
    key_dim: int | None = bounded(None, at_least=1, at_most=2**17)


@dataclass
class HubSettings:
    """A pretrained model of the hub; ``model.name`` is its repository or folder."""

    # The weights' type; auto is the model's own.
    dtype: str = bounded("auto", one_of=("auto", "float32", "bfloat16", "float16"))
    revision: str = "main"  # revision of the repository
    trust_remote_code: bool = False  # whether code of the repository may run
    # Tokens it may see; null: as many as it has positions.
    max_length: int | None = bounded(None, at_least=1)
    batch_size: int = bounded(8, at_least=1)  # prompts read together
    # What BABILong's prompts contain besides context and question.
    instruction: bool = True  # what the question will be about
    examples: bool = True  # two or three answered questions
    post_prompt: bool = True  # how to answer


@dataclass
class ModelSettings:
    """One preset of conf/model."""

    name: str = "atlas"  # the preset; with model=hf a repository or folder
    mixers: list[str] = field(default_factory=lambda: ["neural_memory"])  # layer by layer, repeated
    write_gate: bool = True  # whether a gate decides how much a token writes; else all write 1
    # How far the first updates may move, after TTT's (2407.04620). An orthogonalised update has the
    # norm it is given; a gradient step on two layers moves by the product of their norms.
    initial_step: float = bounded(0.5, above=0)
    # Factor on the memory's chunk in coarse stages of training.
    coarse_factor: int = bounded(1, at_least=1)
    # Tokens per segment of memory_as_context, of cached_memory and of a recurrence.
    segment: int = bounded(64, at_least=1)
    # memory_as_context: whether the queries to the memory have the convolution of its keys, and
    # start as these.
    query_convolution: bool = False
    # parameters: narrow the feed-forward to the Transformer's parameter count. state: size the
    # memory (or the attention's window) to width^2 numbers a layer, those of a full matrix.
    match: str = bounded("parameters", one_of=("none", "parameters", "state"))
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    recurrence: RecurrenceSettings = field(default_factory=RecurrenceSettings)
    hub: HubSettings | None = None  # a pretrained model, which uses nothing of the above; or null


@dataclass
class ScaleSettings:
    """One size of conf/scale (ATLAS Table 7); the memory's own sizes default to the heads'."""

    name: str = "tiny"  # the chosen file
    width: int = bounded(64, at_least=1, at_most=2**17)  # size of the residual stream
    layers: int = bounded(2, at_least=1)  # layers, each a mixer and a feed-forward
    # Heads of attention, and of memories if memory_heads is null.
    heads: int = bounded(4, at_least=1)
    # Hidden size of the Transformer's feed-forward; null: 8/3 of width; 0: no feed-forward.
    feed_forward: int | None = bounded(None, at_least=0, at_most=2**20)
    memory_heads: int | None = bounded(None, at_least=1)  # heads of memories; null: as heads
    # Size of a key before an expanding phi; null: as the values.
    memory_key_dim: int | None = bounded(None, at_least=1, at_most=2**17)
    # Tokens of sliding windows and segments (2048 in ATLAS section 6).
    attention_window: int = bounded(64, at_least=1)
    attention_convolution: bool = False  # whether attention has the short convolution of memories
    tie_embeddings: bool = True  # whether the output layer is the embedding
