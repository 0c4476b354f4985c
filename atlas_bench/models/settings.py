"""What describes a model: its mixer, its scale and the matching of parameter counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import get_type_hints

from atlas_bench.memory.spec import MemorySpec
from atlas_bench.naming import check_choice, nearest

# Around kernels of flash-linear-attention, with the largest heads that those take.
LIBRARY_MIXERS = {"kda": 256, "mamba2": 256, "mesa_net": 128}
MIXERS = (
    "attention",
    "neural_memory",
    "memory_as_context",
    "memory_as_gate",
    "memory_as_layer",
    *LIBRARY_MIXERS,
)
MATCH = ("none", "parameters", "state")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def _spec(settings: MemorySettings) -> MemorySpec:
    """The checked spec; ValueError names the field that is wrong."""
    return MemorySpec(**asdict(settings))


# MemorySpec is frozen, which a config must not be: the same fields, open to overrides.
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
    rope_base: float = 10000.0  # of the wavelengths of the rotation
    # Of 4 tokens on q, k and v, as memories have (Based, 2402.18668); null: as the scale says.
    convolution: bool | None = None
    persistent_tokens: int = 0  # learnt keys and values that every query sees (Titans section 3.3)


@dataclass
class HubSettings:
    """A pretrained model of the hub, whose repository or folder ``model.name`` is."""

    dtype: str = "auto"  # of the weights: auto (the model's own) | float32 | bfloat16 | float16
    revision: str = "main"  # of the repository
    trust_remote_code: bool = False  # whether code of the repository may run
    max_length: int | None = None  # tokens it may see; null for as many as it has positions
    batch_size: int = 8  # prompts read together
    # What BABILong's prompts hold besides context and question.
    instruction: bool = True  # what is going to be asked
    examples: bool = True  # two or three, answered
    post_prompt: bool = True  # how to answer


@dataclass
class ModelSettings:
    """One preset of conf/model."""

    name: str = "atlas"  # of the preset; with model=hf a repository or folder
    mixers: list[str] = field(default_factory=lambda: ["neural_memory"])  # of the layers, in turn
    write_gate: bool = True  # whether a gate says how much a token writes; else all write 1
    # How far the first updates may move, after TTT's (2407.04620). An orthogonalised update has the
    # norm it is given; a gradient step on two layers moves by the product of their norms.
    initial_step: float = 0.5
    coarse_factor: int = 1  # of the memory's chunk, in coarse stages of training
    segment: int = 64  # tokens of a segment of memory_as_context
    # parameters: narrow the feed-forward until the Transformer's count is met. state: size the
    # memory (or the attention's window) until it holds width^2 numbers a layer, a full matrix's.
    match: str = "parameters"
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    hub: HubSettings | None = None  # not null: nothing of the above, but a pretrained model


@dataclass
class ScaleSettings:
    """One size of conf/scale (ATLAS Table 7); the memory's own sizes default to the heads'."""

    name: str = "tiny"  # of the chosen file
    width: int = 64  # of the residual stream
    layers: int = 2  # a mixer and a feed-forward each
    heads: int = 4  # of attention, and of memories where memory_heads is null
    feed_forward: int | None = None  # hidden size of the Transformer's; null: 8/3 of width; 0: none
    memory_heads: int | None = None  # null: as heads
    memory_key_dim: int | None = None  # of a key before an expanding phi; null: as the values
    attention_window: int = 64  # of sliding windows and segments (2048 in ATLAS section 6)
    attention_convolution: bool = False  # whether attention has the short convolution of memories
    tie_embeddings: bool = True  # whether the output layer is the embedding


def needs_library(model: ModelSettings) -> bool:
    """Whether a layer only runs on the kernels of flash-linear-attention, hence on a GPU."""
    return any(mixer in LIBRARY_MIXERS for mixer in model.mixers)


def has_convolution(model: ModelSettings, scale: ScaleSettings) -> bool:
    """Whether the attention of the model has a short convolution."""
    if model.attention.convolution is None:  # memory_as_context has none, see check_settings
        return scale.attention_convolution and "memory_as_context" not in model.mixers
    return model.attention.convolution


def check_settings(model: ModelSettings, scale: ScaleSettings) -> None:
    """Raise ValueError in one sentence for a combination that cannot be built."""
    if model.hub is not None:
        _check_hub(model.hub)
        return
    if model.initial_step <= 0:
        raise ValueError(f"model.initial_step={model.initial_step} must be above 0")
    if model.coarse_factor < 1:
        raise ValueError(f"model.coarse_factor={model.coarse_factor} must be at least 1")
    if not model.mixers:
        raise ValueError(f"model.mixers is empty; name at least one of {', '.join(MIXERS)}")
    for mixer in model.mixers:
        if mixer not in MIXERS:
            raise ValueError(
                f"model.mixers={mixer} is not one of {', '.join(MIXERS)}{nearest(mixer, MIXERS)}"
            )
    if "memory_as_context" in model.mixers and (
        model.segment < 1 or model.segment % model.memory.chunk
    ):
        raise ValueError(
            f"model.segment={model.segment} is not a multiple of model.memory.chunk="
            f"{model.memory.chunk}: a segment reads the memory where a chunk has ended"
        )
    if model.match not in MATCH:
        raise ValueError(
            f"model.match={model.match} is not one of {', '.join(MATCH)}"
            f"{nearest(model.match, MATCH)}"
        )
    for name in ("width", "layers", "heads", "attention_window"):
        if getattr(scale, name) < 1:
            raise ValueError(f"scale.{name}={getattr(scale, name)} must be at least 1")
    if scale.feed_forward is not None and scale.feed_forward < 0:
        raise ValueError(
            f"scale.feed_forward={scale.feed_forward} must be a size, 0 for no feed-forward, or "
            f"null for 8/3 of the width"
        )
    for name, heads in (("heads", scale.heads), ("memory_heads", scale.memory_heads)):
        if heads is not None and (heads < 1 or scale.width % heads):
            raise ValueError(
                f"scale.{name}={heads} does not divide scale.width={scale.width}; "
                f"use one of {', '.join(map(str, _divisors(scale.width)))}"
            )
    if model.mixers != ["neural_memory"] and (scale.width // scale.heads) % 2:
        raise ValueError(
            f"scale.heads={scale.heads} gives heads of odd size {scale.width // scale.heads}, "
            f"which rotary positions cannot rotate in pairs; use fewer or more heads"
        )
    for mixer in model.mixers:
        size, most = scale.width // scale.heads, LIBRARY_MIXERS.get(mixer)
        if most is not None and size > most:
            raise ValueError(
                f"scale.heads={scale.heads} gives heads of size {size}, and the kernel of "
                f"model.mixers={mixer} takes {most} at most; use more heads"
            )
    if model.attention.persistent_tokens < 0:
        raise ValueError(
            f"model.attention.persistent_tokens={model.attention.persistent_tokens} must not be "
            f"negative"
        )
    if model.attention.convolution and "memory_as_context" in model.mixers:
        raise ValueError(
            "model.attention.convolution=true is not for memory_as_context, whose attention begins "
            "anew in every segment; leave it false"
        )
    window = model.attention.window
    if window is not None and window < 1:
        raise ValueError(f"model.attention.window={window} must be at least 1, or null for full")
    if scale.memory_key_dim is not None and scale.memory_key_dim < 1:
        raise ValueError(f"scale.memory_key_dim={scale.memory_key_dim} must be at least 1")


def _check_hub(hub: HubSettings) -> None:
    check_choice("model.hub.dtype", hub.dtype, DTYPES)
    for key in ("max_length", "batch_size"):
        if getattr(hub, key) is not None and getattr(hub, key) < 1:
            raise ValueError(f"model.hub.{key}={getattr(hub, key)} must be at least 1")


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0][:8]
