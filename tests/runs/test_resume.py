"""Which saved run is the run of a config."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from atlas_bench.artifacts.folder import RunFolder, write_json
from atlas_bench.artifacts.saved_config import write_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.runs.resume import folder_to_resume
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.babilong.task import BabilongSettings
from atlas_bench.training.settings import TrainingSettings, with_stages


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was stopped."""
    folder = RunFolder(tmp_path / "outputs/run")
    write_config(folder.config, asdict(settings(tmp_path)))
    write_json(folder.last_checkpoint, {"directory": "step-1"})
    return folder


def settings(tmp_path: Path, resume: object = True) -> RunSettings:
    return RunSettings(
        name="run",
        resume=resume,
        output_dir=str(tmp_path / "outputs"),
        model=ModelSettings(name="atlas"),
        scale=ScaleSettings(name="tiny"),
        task=BabilongSettings(),
        training=with_stages(TrainingSettings(), BabilongSettings()),
    )


def edit(folder: RunFolder, *path: str, value: object = None) -> None:
    """Change a key of the saved config; without a value remove it."""
    config = json.loads(folder.config.read_text())
    *groups, key = path
    group = config
    for name in groups:
        group = group[name]
    if value is None:
        del group[key]
    else:
        group[key] = value
    write_json(folder.config, config)


def test_the_unfinished_run_of_the_same_config_is_found(run: RunFolder, tmp_path: Path) -> None:
    assert folder_to_resume(settings(tmp_path)) == run.path
    edit(run, "seed", value=1)
    assert folder_to_resume(settings(tmp_path)) is None
    with pytest.raises(ConfigError, match="another config: seed was 1 there and is 0 here"):
        folder_to_resume(settings(tmp_path, str(run)))


def test_a_run_saved_before_a_key_existed_is_resumed(run: RunFolder, tmp_path: Path) -> None:
    edit(run, "format")
    edit(run, "model", "memory", "branch_norm")
    edit(run, "task", "samples")
    edit(run, "validation_samples")
    edit(run, "hardware", "prefill_chunk")
    edit(run, "hardware", "piece_tokens", value=2048)
    stages = asdict(settings(tmp_path))["training"]["curriculum"]["stages"]
    for stage in stages:
        stage["price"] = stage.pop("penalty_scale")
    edit(run, "training", "curriculum", "stages", value=stages)
    assert folder_to_resume(settings(tmp_path)) == run.path
    edit(run, "hardware", "piece_tokens", value=512)
    with pytest.raises(ConfigError, match="hardware.prefill_chunk was 512 there and is 2048 here"):
        folder_to_resume(settings(tmp_path, str(run)))


@pytest.mark.parametrize("path", [("model", "memory", "chnk"), ("seeed",), ("task", "lengthss")])
def test_an_unknown_key_is_refused(path: tuple[str, ...], run: RunFolder, tmp_path: Path) -> None:
    edit(run, *path, value=1)
    with pytest.raises(ConfigError, match=f"config.json: {'.'.join(path)} is not a key"):
        folder_to_resume(settings(tmp_path, str(run)))
    assert folder_to_resume(settings(tmp_path)) is None


def test_another_task_is_another_config(run: RunFolder, tmp_path: Path) -> None:
    edit(run, "task", "name", value="mad")
    with pytest.raises(ConfigError, match="task.name was mad there and is babilong here"):
        folder_to_resume(settings(tmp_path, str(run)))


def test_other_evaluations_are_another_config(run: RunFolder, tmp_path: Path) -> None:
    edit(run, "evaluations", value={"more": {"name": "mad"}})
    with pytest.raises(ConfigError, match="evaluations.more.name was mad there and is None here"):
        folder_to_resume(settings(tmp_path, str(run)))


def test_a_damaged_config_is_named(run: RunFolder, tmp_path: Path) -> None:
    run.config.write_text("{")
    with pytest.raises(ConfigError, match="config.json is not valid JSON"):
        folder_to_resume(settings(tmp_path, str(run)))
    assert folder_to_resume(settings(tmp_path)) is None
