"""A run's folder as training leaves it, with random weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from atlas_bench.artifacts.checkpoint import save_checkpoint
from atlas_bench.artifacts.folder import write_json
from atlas_bench.cli.compose import compose_settings
from atlas_bench.models.build import build_model
from atlas_bench.tasks.vocabulary import shared_tokenizer

SMALL = ["model=deltanet", "model.match=none", "scale.width=16", "scale.heads=2"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = compose_settings(SMALL)
    folder = tmp_path_factory.mktemp("run")
    vocab_size = shared_tokenizer().vocab_size
    model = build_model(settings.model, settings.scale, vocab_size=vocab_size, seed=0)
    save_checkpoint(folder / "checkpoints", model, None, {"step": 1}, best=True)
    write_json(folder / "config.json", asdict(settings))
    return folder
