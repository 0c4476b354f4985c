"""Checkpoints are written whole or not at all, and come back bit for bit."""

from __future__ import annotations

import json

import pytest
import torch

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import UnreadableFile


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


def test_keeps_last_and_best_and_nothing_else(tmp_path) -> None:
    model, optimizer = small()
    for step in range(1, 5):
        checkpoint.save_checkpoint(tmp_path, model, optimizer, {"step": step}, best=step == 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.json", "last.json", "step-00000002", "step-00000004"]
    assert checkpoint.find_checkpoint(tmp_path).name == "step-00000004"
    assert checkpoint.find_checkpoint(tmp_path / "best").name == "step-00000002"
    assert checkpoint.find_checkpoint(tmp_path / "last").name == "step-00000004"


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch) -> None:
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
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(checkpoint.CheckpointError, match="is damaged"):
        checkpoint.load_model(folder, model)
    (tmp_path / "last.json").write_text("{")
    with pytest.raises(UnreadableFile, match="last.json is not valid JSON"):
        checkpoint.find_checkpoint(tmp_path)
    (tmp_path / "last.json").write_text(json.dumps({"directory": "gone", "step": 1}))
    with pytest.raises(checkpoint.CheckpointError, match="has no model.safetensors"):
        checkpoint.find_checkpoint(tmp_path)
