"""Checkpoints: safetensors and JSON, each written in one step, so a kill loses nothing.

checkpoints/step-00000100/   model.safetensors  optimizer.safetensors  progress.json
                             tokenizer.json  tokenizer_config.json (the tokenizer's name)
checkpoints/last.json        {"directory": "step-00000100", "step": 100}
checkpoints/best.json        the same for the best checkpoint
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from atlas_bench.artifacts.folder import BEST, LAST, RunFolder, read_json, replacing, write_json
from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import one_line

MODEL_NAME, OPTIMIZER_NAME, PROGRESS_NAME, TOKENIZER_NAME = (
    "model.safetensors", "optimizer.safetensors", "progress.json", "tokenizer.json"
)  # fmt: skip

_RENAMED = {"streams": "sequences"}  # former keys of progress.json


class CheckpointError(ConfigError):
    """A checkpoint cannot be used; the message is one sentence that names the file."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    progress: dict[str, Any],
    *,
    best: bool,
    tokenizer: Any = None,
) -> Path:
    """Write step ``progress['step']``, point `last` (and `best`) at it, delete older checkpoints.

    The ``tokenizer`` of a model (`text.tokenizer.Tokenizer`) is saved with it, because the
    embedding depends on it.
    """
    target = folder / f"step-{progress['step']:08d}"
    with replacing(target) as temporary:
        temporary.mkdir()
        weights = model.state_dict().items()
        save_file({name: each.contiguous() for name, each in weights}, temporary / MODEL_NAME)
        if optimizer is not None:
            states = optimizer.state_dict()["state"].items()
            flat = {
                f"{index}.{name}": torch.as_tensor(value).contiguous()
                for index, values in states
                for name, value in values.items()
            }
            save_file(flat, temporary / OPTIMIZER_NAME)
        if tokenizer is not None:
            tokenizer.save(temporary)
        write_json(temporary / PROGRESS_NAME, progress)
    pointer = {"directory": target.name, "step": progress["step"]}
    if best:
        write_json(folder / f"{BEST}.json", pointer)
    write_json(folder / f"{LAST}.json", pointer)
    _prune(folder)
    return target


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that ``path`` means.

    ``path`` is a run's folder, its ``checkpoints/`` (both mean the last checkpoint), one of
    ``checkpoints/last`` and ``checkpoints/best``, or a checkpoint folder. Raises CheckpointError.
    """
    pointers = [path / f"{LAST}.json", RunFolder(path).last_checkpoint]
    if path.name in (LAST, BEST):
        pointers.insert(0, path.with_name(f"{path.name}.json"))
    if (path / MODEL_NAME).is_file():
        return path
    for pointer in pointers:
        if pointer.is_file():
            target = pointer.parent / str(read_json(pointer).get("directory"))
            if (target / MODEL_NAME).is_file():
                return target
            raise CheckpointError(f"{pointer} names {target}, which has no {MODEL_NAME}")
    raise CheckpointError(
        f"{path} is not a checkpoint; give a run's folder, its checkpoints/, checkpoints/best, "
        f"checkpoints/last or a folder with {MODEL_NAME}"
    )


def load_model(folder: Path, model: nn.Module) -> None:
    """Load the weights. Raises CheckpointError if they do not fit ``model`` exactly."""
    path = folder / MODEL_NAME
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit the configured model: {one_line(error)}"
        ) from error
    except Exception as error:  # safetensors' own error type for a damaged file
        raise CheckpointError(f"{path} is damaged: {error}") from error


def tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer saved with a checkpoint; None for a model whose tokens are not text."""
    path = folder / TOKENIZER_NAME
    return path if path.is_file() else None


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimizer's state exactly as `save_checkpoint` wrote it."""
    flat = load_file(folder / OPTIMIZER_NAME)
    content = optimizer.state_dict()
    content["state"] = {}
    for key, tensor in flat.items():
        index, name = key.split(".", 1)
        content["state"].setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict(content)


def read_progress(folder: Path) -> dict[str, Any]:
    """Where training stood, with the present names of its keys."""
    progress = read_json(folder / PROGRESS_NAME)
    return {_RENAMED.get(key, key): value for key, value in progress.items()}


def _prune(folder: Path) -> None:
    kept = set()
    for name in (LAST, BEST):
        if (folder / f"{name}.json").is_file():
            kept.add(read_json(folder / f"{name}.json")["directory"])
    for path in folder.glob("*step-*"):
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
