"""The state of a whole model: one state per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from atlas_bench.models.mixer import MixerState


@dataclass(frozen=True)
class ModelState:
    """One state per layer, of constant size for recurrent models."""

    layers: tuple[MixerState, ...]

    def select(self, rows: Sequence[int]) -> ModelState:
        """The state of the sequences ``rows`` of the batch; a row may be named several times."""
        return _select(self, rows, {})


def _select(part: Any, rows: Sequence[int], selected: dict[int, Tensor]) -> Any:
    """``rows`` of the first dimension, the batch, of every tensor in ``part``.

    ``selected`` holds the result for each tensor, because a state may hold one under two names.
    """
    if isinstance(part, Tensor):
        if id(part) not in selected:
            selected[id(part)] = part[torch.as_tensor(rows, device=part.device)]
        return selected[id(part)]
    if is_dataclass(part):
        named = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **_select(named, rows, selected))
    if isinstance(part, dict):
        return {name: _select(value, rows, selected) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(_select(value, rows, selected) for value in part)
    return part
