"""A trained model and its tokenizer from a run's folder alone, without the command that made it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atlas_bench.artifacts.checkpoint import (
    TOKENIZER_NAME,
    CheckpointError,
    find_checkpoint,
    load_model,
    tokenizer_file,
)
from atlas_bench.artifacts.folder import CONFIG_NAME, find_upwards
from atlas_bench.artifacts.saved_config import SavedConfig, find_config
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.naming import one_line
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode and its tokenizer."""

    model: LanguageModel
    tokenizer: Tokenizer


def load_run(path: str | Path) -> Loaded:
    """The model of a run's folder, its ``checkpoints/`` or one checkpoint in there.

    Raises ConfigError in one sentence if a file is missing, is damaged or does not fit.
    """
    source = find_checkpoint(Path(path))
    tokenizer, config = run_tokenizer(source), _config(source)
    model, scale = config.settings("model", ModelSettings), config.settings("scale", ScaleSettings)
    try:
        built = build_model(model, scale, vocab_size=tokenizer.vocab_size, seed=0)
    except ValueError as error:
        raise CheckpointError(
            f"the model of {source} cannot be built: {one_line(error)}"
        ) from error
    load_model(source, built)
    return Loaded(built.eval(), tokenizer)


def run_tokenizer(path: str | Path) -> Tokenizer:
    """The ``tokenizer.json`` saved with a run; without one, the tokenizer that its config names.

    Raises ConfigError as `load_run` does.
    """
    source = find_checkpoint(Path(path))
    saved = tokenizer_file(source) or find_upwards(source, TOKENIZER_NAME)
    text = None if saved else _config(source).settings("text", TextSettings)
    try:
        if text is None:
            return load_tokenizer(saved)
        return shared_tokenizer(text.tokenizer, text.vocab_size)
    except ValueError as error:
        raise CheckpointError(
            f"the tokenizer of {source} cannot be loaded: {one_line(error)}"
        ) from error


def _config(source: Path) -> SavedConfig:
    config = find_config(source)
    if config is None:
        raise CheckpointError(f"{source} has no {CONFIG_NAME} above it; give a run's folder")
    return config
