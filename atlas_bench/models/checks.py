"""Checks of a model's settings: values and combinations that cannot be built."""

from __future__ import annotations

from atlas_bench.models.mixer import MIXERS, mixer_class
from atlas_bench.models.settings import (
    DTYPES,
    MATCH,
    HubSettings,
    ModelSettings,
    ScaleSettings,
)
from atlas_bench.naming import check_choice


def check_settings(model: ModelSettings, scale: ScaleSettings) -> None:
    """Raise ValueError in one sentence for a combination that cannot be built."""
    model.memory.spec()
    if model.hub is not None:
        _check_hub(model.hub)
        return
    _check_model(model)
    _check_scale(scale)
    for mixer in dict.fromkeys(model.mixers):
        mixer_class(mixer).check(model, scale)


def _check_model(model: ModelSettings) -> None:
    if model.initial_step <= 0:
        raise ValueError(f"model.initial_step={model.initial_step} must be above 0")
    if model.coarse_factor < 1:
        raise ValueError(f"model.coarse_factor={model.coarse_factor} must be at least 1")
    if not model.mixers:
        raise ValueError(f"model.mixers is empty; name at least one of {', '.join(MIXERS)}")
    for mixer in model.mixers:
        check_choice("model.mixers", mixer, MIXERS)
    check_choice("model.match", model.match, MATCH)
    attention = model.attention
    if attention.persistent_tokens < 0:
        raise ValueError(
            f"model.attention.persistent_tokens={attention.persistent_tokens} must not be negative"
        )
    if attention.window is not None and attention.window < 1:
        raise ValueError(
            f"model.attention.window={attention.window} must be at least 1, or null for full"
        )


def _check_scale(scale: ScaleSettings) -> None:
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
    if scale.memory_key_dim is not None and scale.memory_key_dim < 1:
        raise ValueError(f"scale.memory_key_dim={scale.memory_key_dim} must be at least 1")


def _check_hub(hub: HubSettings) -> None:
    check_choice("model.hub.dtype", hub.dtype, DTYPES)
    for key in ("max_length", "batch_size"):
        if getattr(hub, key) is not None and getattr(hub, key) < 1:
            raise ValueError(f"model.hub.{key}={getattr(hub, key)} must be at least 1")


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0][:8]
