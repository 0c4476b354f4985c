"""Checkpoints are written whole or not at all, and come back bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts import folder as folder_module
from atlas_bench.artifacts.folder import UnreadableFile
from atlas_bench.config.errors import ConfigError
from atlas_bench.training.progress import progress_of


def small() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_model_and_optimizer_come_back_bit_for_bit(tmp_path) -> None:
    model, optimizer = small()
    folder = checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 3}, best=True)
    other, other_optimizer = small()
    for parameter in other.parameters():
        parameter.data.zero_()
    other_optimizer.state.clear()
    checkpoint.load_model(folder, other)
    checkpoint.load_optimizer(folder, other_optimizer)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    for one, two in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert checkpoint.read_progress(folder) == {"step": 3}


def test_keeps_the_two_newest_and_the_best_and_nothing_that_is_not_its_own(tmp_path) -> None:
    model, optimizer = small()
    others = ["my-step-1", "step-notes", ".step-00000001.host.7"]
    for name in others:
        (tmp_path / name).mkdir()
    for step in range(1, 6):
        checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": step}, best=step == 2)
    names = {path.name for path in tmp_path.iterdir()}
    steps = {f"step-0000000{step}" for step in (2, 4, 5)}
    assert names == {"best.json", "last.json", "my-step-1", "step-notes"} | steps
    assert checkpoint.find_checkpoint(tmp_path).name == "step-00000005"
    assert checkpoint.find_checkpoint(tmp_path / "best").name == "step-00000002"
    assert checkpoint.find_checkpoint(tmp_path / "last").name == "step-00000005"


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch) -> None:
    """Trust B10."""
    model, optimizer = small()
    checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 1}, best=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 2}, best=True)
    assert checkpoint.find_checkpoint(tmp_path).name == "step-00000001"


def test_what_is_no_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="nowhere is not a checkpoint"):
        checkpoint.find_checkpoint(tmp_path / "nowhere")
    model, optimizer = small()
    folder = checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 1}, best=True)
    with pytest.raises(checkpoint.CheckpointError, match="does not fit the configured model"):
        checkpoint.load_model(folder, torch.nn.Linear(4, 2))
    (tmp_path / "last.json").write_text("{")
    with pytest.raises(UnreadableFile, match="last.json is not valid JSON"):
        checkpoint.find_checkpoint(tmp_path)
    for name, message in (
        ("step-00000009", "has no model.safetensors"),
        ("../step-00000001", "is not a checkpoint's folder"),
    ):
        (tmp_path / "last.json").write_text(json.dumps({"directory": name, "step": 1}))
        with pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.find_checkpoint(tmp_path)


def flip_a_bit(path: Path, place: float = 0.9) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "progress.json"])
def test_a_flipped_bit_is_noticed(name: str, place: float, tmp_path: Path) -> None:
    model, optimizer = small()
    folder = checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 1}, best=True)
    flip_a_bit(folder / name, place)
    load = {
        "model.safetensors": lambda: checkpoint.load_model(folder, model),
        "optimizer.safetensors": lambda: checkpoint.load_optimizer(folder, optimizer),
        "progress.json": lambda: checkpoint.read_progress(folder),
    }
    with pytest.raises(checkpoint.CheckpointError, match=f"{name} is damaged"):
        load[name]()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model, optimizer = small()
    torch.nn.init.constant_(model.bias, float("nan"))
    folder = checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 1}, best=True)
    with pytest.raises(checkpoint.CheckpointError, match="bias has values that are not finite"):
        checkpoint.load_model(folder, model)


def test_an_optimizer_without_its_state_is_refused(tmp_path: Path) -> None:
    model, optimizer = small()
    fresh = torch.optim.AdamW(model.parameters())
    folder = checkpoint.save_checkpoint(tmp_path, model, fresh, {"step": 1}, best=True)
    with pytest.raises(checkpoint.CheckpointError, match="no state, although training had begun"):
        checkpoint.load_optimizer(folder, optimizer)


def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also without `last`, which a power cut can leave behind or lose."""
    model, optimizer = small()
    for step in (1, 2, 3):
        checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": step}, best=False)
    (tmp_path / "last.json").unlink()
    assert checkpoint.newest_undamaged(tmp_path).name == "step-00000003"
    flip_a_bit(tmp_path / "step-00000003/optimizer.safetensors")
    assert checkpoint.newest_undamaged(tmp_path).name == "step-00000002"
    assert "step-00000003/optimizer.safetensors is damaged" in caplog.text
    (tmp_path / "step-00000002/model.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="no undamaged checkpoint"):
        checkpoint.newest_undamaged(tmp_path)


def test_an_unreadable_file_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = small()
    for step in (1, 2):
        checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": step}, best=False)
    read = checkpoint._sha256

    def bad_disk(path: Path) -> str:
        if path.parent.name == "step-00000002":
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(checkpoint, "_sha256", bad_disk)
    assert checkpoint.newest_undamaged(tmp_path).name == "step-00000001"
    assert "cannot be read: Input/output error" in caplog.text


def test_the_pointers_follow_a_resume(tmp_path: Path) -> None:
    """A kill can come before they are written; a damaged best checkpoint is forgotten."""
    model, optimizer = small()
    for step in (1, 2, 3):
        checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": step}, best=step == 3)
    (tmp_path / "last.json").write_text(json.dumps({"directory": "step-00000001", "step": 1}))
    checkpoint.point_to(tmp_path / "step-00000003", best=True)
    assert checkpoint.find_checkpoint(tmp_path).name == "step-00000003"
    checkpoint.point_to(tmp_path / "step-00000002", best=False)
    assert checkpoint.find_checkpoint(tmp_path).name == "step-00000002"
    assert not (tmp_path / "best.json").exists()
    checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 3}, best=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.json", "step-00000002", "step-00000003",
    }  # fmt: skip


def test_a_checkpoint_of_version_0_1_has_no_checksums(tmp_path: Path) -> None:
    model, optimizer = small()
    folder = checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": 1}, best=True)
    (folder / "sha256.json").unlink()
    assert checkpoint.newest_undamaged(tmp_path) == folder
    checkpoint.load_model(folder, model)


def test_everything_is_on_disk_before_the_pointer_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of syncs and renames: a power cut loses what was not synced."""
    model, optimizer = small()
    steps: list[tuple[str, str]] = []
    sync, replace = folder_module.sync, os.replace

    def recorded_sync(path: Path) -> None:
        steps.append(("sync", path.name))
        sync(path)

    def recorded_replace(source: Path, target: Path) -> None:
        steps.append(("rename", target.name))
        replace(source, target)

    monkeypatch.setattr(folder_module, "sync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    run = tmp_path / "outputs/run"
    checkpoint.save_checkpoint(run / "checkpoints", model, optimizer, {"step": 1}, best=False)
    assert steps[:3] == [("sync", tmp_path.name), ("sync", "outputs"), ("sync", "run")]
    renamed = steps.index(("rename", "step-00000001"))
    for name in ("model.safetensors", "optimizer.safetensors", "progress.json", "sha256.json"):
        assert ("sync", name) in steps[:renamed]
    assert steps[renamed + 1] == ("sync", "checkpoints")
    assert steps.index(("rename", "last.json")) > renamed + 1
    assert steps[-1] == ("sync", "checkpoints")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step": 1, "stepp": 2}', r"progress.json: stepp is not a key .*did you mean step"),
        ('{"step": "soon"}', "progress.json: step: Value 'soon'"),
        ("[1]", "progress.json does not hold a JSON object"),
    ],
)
def test_progress_of_another_shape_is_one_sentence(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "progress.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        progress_of(tmp_path)
