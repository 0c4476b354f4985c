"""Checks of a model's settings: bounds, and combinations that cannot be built."""

from __future__ import annotations

from atlas_bench.config.bounds import check_bounds
from atlas_bench.models.mixer import MIXERS, mixer_class
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.naming import check_choice


def check_settings(model: ModelSettings, scale: ScaleSettings) -> None:
    """Raise ValueError in one sentence for settings that cannot be built."""
    check_bounds(model, "model.")
    check_bounds(scale, "scale.")
    model.memory.spec()
    if model.hub is not None:
        return
    if not model.mixers:
        raise ValueError(f"model.mixers is empty; name at least one of {', '.join(MIXERS)}")
    for mixer in model.mixers:
        check_choice("model.mixers", mixer, MIXERS)
    if scale.layers < len(model.mixers):
        raise ValueError(
            f"scale.layers={scale.layers} has no place for {model.mixers[scale.layers]}, number "
            f"{scale.layers + 1} of model.mixers; use scale.layers={len(model.mixers)}"
        )
    if model.recurrence.memory_tokens and set(model.mixers) != {"attention"}:
        raise ValueError(
            f"model.mixers=[{', '.join(model.mixers)}] carry a state of their own, and with "
            f"model.recurrence every segment starts anew; use model.mixers=[attention] or "
            f"model.recurrence.memory_tokens=0"
        )
    for name, heads in (("heads", scale.heads), ("memory_heads", scale.memory_heads)):
        if heads is not None and scale.width % heads:
            divisors = [d for d in range(1, scale.width + 1) if scale.width % d == 0]
            raise ValueError(
                f"scale.{name}={heads} does not divide scale.width={scale.width}; "
                f"use one of {', '.join(map(str, divisors[:8]))}"
            )
    for mixer in dict.fromkeys(model.mixers):
        mixer_class(mixer).check(model, scale)
