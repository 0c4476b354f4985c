"""Checkpoints: safetensors and JSON, written so that a kill at any moment loses nothing.

checkpoints/step-00000100/   model.safetensors  optimizer.safetensors  progress.json
                             tokenizer.json  tokenizer_config.json (its name)
checkpoints/last.json        {"directory": "step-00000100", ...}, replaced in one step
checkpoints/best.json        likewise
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from atlas_bench.artifacts.folder import write_json
from atlas_bench.text.tokenizer import Tokenizer

LAST, BEST = "last", "best"


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message is one sentence that names the file."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    progress: dict[str, Any],
    *,
    best: bool,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write step ``progress['step']``, point `last` (and `best`) at it, drop what is old.

    The ``tokenizer``, where a model has one, is saved with it: its embedding means nothing else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{progress['step']:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(_contiguous(model.state_dict()), temporary / "model.safetensors")
    if optimizer is not None:
        save_file(_flat_optimizer(optimizer), temporary / "optimizer.safetensors")
    if tokenizer is not None:
        tokenizer.save(temporary)
    write_json(temporary / "progress.json", progress)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    pointer = {"directory": target.name, "step": progress["step"]}
    if best:
        write_json(folder / f"{BEST}.json", pointer)
    write_json(folder / f"{LAST}.json", pointer)
    _prune(folder)
    return target


def find_checkpoint(path: Path, which: str = LAST) -> Path:
    """The checkpoint folder that ``path`` means: itself, its run's or its ``checkpoints/``."""
    for folder in (path, path / "checkpoints"):
        if (folder / "model.safetensors").is_file():
            return folder
        pointer = folder / f"{which}.json"
        if pointer.is_file():
            target = folder / _read_json(pointer)["directory"]
            if (target / "model.safetensors").is_file():
                return target
            raise CheckpointError(f"{pointer} points at {target}, which holds no model.safetensors")
    raise CheckpointError(
        f"{path} is no checkpoint; give a run's folder, its checkpoints/ or a folder that holds "
        f"model.safetensors"
    )


def around(path: Path, name: str) -> Path | None:
    """The file ``name`` of a run or a checkpoint: in ``path`` or in one of two folders above it."""
    folders = (path, path.parent, path.parent.parent)
    return next((each / name for each in folders if (each / name).is_file()), None)


def load_model(folder: Path, model: nn.Module) -> None:
    """Load the weights strictly; CheckpointError where they do not fit ``model``."""
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors)
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit the configured model: {reason}") from error
    except Exception as error:  # safetensors' own error type for a damaged file
        raise CheckpointError(f"{path} is damaged: {error}") from error


def tokenizer_file(folder: Path) -> Path | None:
    """The ``tokenizer.json`` of a checkpoint; None for a model of tokens without text."""
    path = folder / "tokenizer.json"
    return path if path.is_file() else None


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Load what `save_checkpoint` wrote, bit for bit."""
    flat = load_file(folder / "optimizer.safetensors")
    content = optimizer.state_dict()
    content["state"] = {}
    for key, tensor in flat.items():
        index, name = key.split(".", 1)
        content["state"].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(content)


def read_progress(folder: Path) -> dict[str, Any]:
    return _read_json(folder / "progress.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _flat_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, values in state.items()
        for name, value in values.items()
    }


def _prune(folder: Path) -> None:
    kept = set()
    for name in (LAST, BEST):
        if (folder / f"{name}.json").is_file():
            kept.add(_read_json(folder / f"{name}.json")["directory"])
    for path in folder.glob("*step-*"):
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
