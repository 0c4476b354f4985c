"""A run's folder as training leaves it, with random weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from atlas_bench.models.language_model import build_model
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings
from atlas_bench.tasks.babilong import babilong_tokenizer
from atlas_bench.tasks.settings import TextSettings
from atlas_bench.training.checkpoint import save_checkpoint, write_json


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model = ModelSettings(
        name="deltanet",
        memory=MemorySettings(network="matrix", optimizer="gd", retain="none"),
    )
    scale, text = ScaleSettings(width=16, layers=2, heads=2), TextSettings()
    vocab_size = babilong_tokenizer(text.tokenizer, text.vocab_size).vocab_size
    built = build_model(model, scale, vocab_size=vocab_size, seed=0)
    save_checkpoint(folder / "checkpoints", built, None, {"step": 1}, best=True)
    config = {"model": asdict(model), "scale": asdict(scale), "text": asdict(text)}
    write_json(folder / "config.json", config)
    return folder
