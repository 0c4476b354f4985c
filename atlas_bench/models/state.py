"""The state of a whole model: one state per layer, and last that of a recurrence over segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from atlas_bench.models.mixer import MixerState

ModelState = tuple[MixerState, ...]  # of constant size for recurrent models


def select_rows(part: Any, rows: Sequence[int], selected: dict[int, Tensor] | None = None) -> Any:
    """The state of the sequences ``rows`` of the batch; a row may be named several times.

    Every tensor in ``part`` has the batch first. ``selected`` holds the result for each tensor,
    because a state may hold one under two names.
    """
    selected = {} if selected is None else selected
    if isinstance(part, Tensor):
        if id(part) not in selected:
            selected[id(part)] = part[torch.as_tensor(rows, device=part.device)]
        return selected[id(part)]
    if is_dataclass(part):
        named = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **select_rows(named, rows, selected))
    if isinstance(part, dict):
        return {name: select_rows(value, rows, selected) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(select_rows(value, rows, selected) for value in part)
    return part
