"""A trained model and its tokenizer from a run's folder alone, without the command that made it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atlas_bench.artifacts.checkpoint import (
    CheckpointError,
    find_checkpoint,
    find_upwards,
    load_model,
)
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.tasks.vocabulary import babilong_tokenizer
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and the checkpoint's folder."""

    model: LanguageModel
    tokenizer: Tokenizer
    source: Path


def load_run(path: str | Path) -> Loaded:
    """The model of a run's folder, its ``checkpoints/`` or one checkpoint in there.

    Raises CheckpointError in one sentence where something is missing or does not fit.
    """
    source = find_checkpoint(Path(path))
    tokenizer = run_tokenizer(source)
    config = _config(source)
    try:
        model = _settings(ModelSettings, config["model"])
        scale = _settings(ScaleSettings, config["scale"])
        built = build_model(model, scale, vocab_size=tokenizer.vocab_size, seed=0)
    except (ValueError, KeyError, OmegaConfBaseException) as error:
        raise CheckpointError(f"the model of {source} cannot be built: {_line(error)}") from error
    load_model(source, built)
    return Loaded(built.eval(), tokenizer, source)


def run_tokenizer(path: str | Path) -> Tokenizer:
    """The ``tokenizer.json`` saved with a run; without one, the one that its config names.

    Raises CheckpointError as `load_run` does.
    """
    source = find_checkpoint(Path(path))
    saved = find_upwards(source, "tokenizer.json")
    try:
        if saved is not None:
            return load_tokenizer(saved)
        text = _settings(TextSettings, _config(source)["text"])
        return babilong_tokenizer(text.tokenizer, text.vocab_size)
    except (ValueError, KeyError, OmegaConfBaseException) as error:
        raise CheckpointError(f"the tokenizer of {source} cannot be had: {_line(error)}") from error


def _config(source: Path) -> dict[str, Any]:
    file = find_upwards(source, "config.json")
    if file is None:
        raise CheckpointError(f"{source} has no config.json above it; give a run's folder")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _settings(kind: type, content: dict[str, Any]) -> Any:
    """``content`` as the dataclass ``kind``, every key and type checked."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), content))
