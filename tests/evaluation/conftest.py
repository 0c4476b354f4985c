"""A run's folder as training leaves it, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from atlas_bench.config import as_dict, folder_of, register_schema, to_settings
from atlas_bench.models.language_model import build_model
from atlas_bench.tasks.babilong import babilong_tokenizer
from atlas_bench.training.checkpoint import save_checkpoint, write_json

SMALL = ["model=deltanet", "model.match=none", "scale.width=16", "scale.heads=2"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    register_schema()
    with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
        settings = to_settings(compose("config", SMALL))
    folder = tmp_path_factory.mktemp("run")
    vocab_size = babilong_tokenizer().vocab_size
    model = build_model(settings.model, settings.scale, vocab_size=vocab_size, seed=0)
    save_checkpoint(folder / "checkpoints", model, None, {"step": 1}, best=True)
    write_json(folder / "config.json", as_dict(settings))
    return folder
