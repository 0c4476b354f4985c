"""Overrides that make a model and a scale those of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from atlas_bench.artifacts.saved_config import find_config
from atlas_bench.cli.compose import compose
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict
from atlas_bench.models.settings import ModelSettings, ScaleSettings

GROUPS = {"model": ModelSettings, "scale": ScaleSettings}


def overrides_of_checkpoint(parsed: Sequence[Override]) -> list[str]:
    """Overrides that make ``model`` and ``scale`` those of the run whose checkpoint is evaluated.

    There are none if the command names no checkpoint or a list of them, or if no run's config is
    found around it. A key that the command names itself keeps the command's value. Raises
    ConfigError if the command names another model or scale than the checkpoint's.
    """
    given = {each.key_or_group: each for each in parsed}
    checkpoint = given.get("checkpoint")
    if checkpoint is None or checkpoint.is_sweep_override():
        return []
    config = find_config(Path(str(checkpoint.value())))
    if config is None:
        return []
    saved = {group: as_dict(config.settings(group, kind)) for group, kind in GROUPS.items()}
    chosen = []
    for group in GROUPS:
        name = saved[group]["name"]
        if group not in given:
            chosen.append(f"{group}={name}")
        elif given[group].value() != name:
            raise ConfigError(
                f"{given[group].input_line} is not what checkpoint={checkpoint.value()} was "
                f"trained as, {group}={name}; leave {group} out"
            )
    config, _ = compose([*(each.input_line for each in parsed), *chosen])
    composed = OmegaConf.to_container(config)
    for group in GROUPS:
        for key, value in _differences(saved[group], composed[group], f"{group}."):
            if key not in given:
                chosen.append(f"{key}={json.dumps(value)}")
    return chosen


def _differences(saved: dict, composed: dict, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys of both whose values differ, with the saved value."""
    for key, value in saved.items():
        if isinstance(value, dict) and isinstance(composed.get(key), dict):
            yield from _differences(value, composed[key], f"{prefix}{key}.")
        elif key in composed and composed[key] != value:
            yield f"{prefix}{key}", value
