"""The config of a run: its format, its upgrade, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from atlas_bench.artifacts.folder import UnreadableFile, read_json, write_json
from atlas_bench.artifacts.saved_config import (
    find_config,
    read_config,
    training_of_checkpoint,
    upgrade,
    write_config,
)
from atlas_bench.config.errors import ConfigError
from atlas_bench.models.settings import ModelSettings

FORMAT_1 = {
    "seed": 3,
    "task": {"name": "mqar"},
    "hardware": {"piece_tokens": 512},
    "training": {
        "batch_tokens": 1,
        "min_streams": 64,
        "curriculum": {"stages": [{"length": 64, "noise": 0.0, "price": 0.5}]},
    },
}


def test_a_config_of_format_1_is_upgraded_and_not_changed_in_place(tmp_path: Path) -> None:
    before = copy.deepcopy(FORMAT_1)
    new = upgrade(FORMAT_1)
    assert before == FORMAT_1
    assert new["hardware"] == {"prefill_chunk": 512}
    stages = [{"penalty_scale": 0.5}]
    assert new["training"] == {"min_sequences": 64, "curriculum": {"stages": stages}}
    assert upgrade(new) == new
    write_json(tmp_path / "config.json", FORMAT_1)
    assert read_config(tmp_path / "config.json").values == new


def test_a_task_with_lengths_and_noise_keeps_them() -> None:
    new = upgrade(FORMAT_1 | {"task": {"name": "babilong"}})
    stages = [{"length": 64, "noise": 0.0, "penalty_scale": 0.5}]
    assert new["training"] == {
        "batch_tokens": 1, "min_sequences": 64, "curriculum": {"stages": stages},
    }  # fmt: skip
    new = upgrade(FORMAT_1 | {"task": {"name": "recall"}, "trained_on": {"task": {"name": "lm"}}})
    assert new["training"]["curriculum"]["stages"] == [{"length": 64, "penalty_scale": 0.5}]
    new = upgrade(FORMAT_1 | {"task": {"name": "learnability"}})
    assert new["training"]["curriculum"]["stages"] is None


def test_a_config_is_written_with_its_format(tmp_path: Path) -> None:
    write_config(tmp_path / "config.json", {"seed": 0})
    assert read_json(tmp_path / "config.json") == {"format": 2, "seed": 0}
    assert read_config(tmp_path / "config.json").values == {"seed": 0}


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"format": 3})
    with pytest.raises(UnreadableFile, match=r"config.json has format 3, but .* reads 1 to 2"):
        read_config(tmp_path / "config.json")


def test_an_unknown_key_is_named_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    write_config(file, {"model": {"name": "atlas", "memory": {"chnk": 8}}})
    with pytest.raises(ConfigError) as error:
        read_config(file).settings("model", ModelSettings)
    expected = "model.memory.chnk is not a key of the config (did you mean chunk?)"
    assert str(error.value) == f"{file}: {expected}"
    write_config(file, {"model": {"memory": {"chunk": "many"}}})
    with pytest.raises(ConfigError, match=r"config.json: model.memory.chunk: Value 'many'"):
        read_config(file).settings("model", ModelSettings)


def test_the_config_of_a_checkpoint_is_its_runs(tmp_path: Path) -> None:
    step = tmp_path / "checkpoints/step-1"
    step.mkdir(parents=True)
    assert find_config(step) is None
    assert training_of_checkpoint(str(step)) == {}
    write_config(tmp_path / "config.json", {"seed": 3, "task": {"name": "lm"}})
    expected = {"seed": 3, "trained_on": {"task": {"name": "lm"}, "text": None}}
    assert training_of_checkpoint(str(step)) == expected


def test_a_damaged_config_of_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"seed": 3')
    with pytest.raises(UnreadableFile, match="config.json is not valid JSON"):
        training_of_checkpoint(str(tmp_path))
