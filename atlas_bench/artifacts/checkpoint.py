"""Checkpoints: safetensors and JSON, each written in one step, so a kill loses nothing.

checkpoints/step-00000100/   model.safetensors  optimizer.safetensors  progress.json
                             tokenizer.json  tokenizer_config.json (the tokenizer's name)
                             sha256.json (of each of these files)
checkpoints/last.json        {"directory": "step-00000100", "step": 100}
checkpoints/best.json        the same for the best checkpoint

The two newest checkpoints and the best one are kept: if the newest is damaged, a resumed run
continues from the one before it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from atlas_bench.artifacts.folder import (
    BEST,
    LAST,
    RunFolder,
    read_json,
    read_json_if_valid,
    replacing,
    sync,
    write_json,
)
from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import one_line

MODEL_NAME, OPTIMIZER_NAME, PROGRESS_NAME, TOKENIZER_NAME = (
    "model.safetensors", "optimizer.safetensors", "progress.json", "tokenizer.json"
)  # fmt: skip

SHA256_NAME = "sha256.json"
KEPT = 2  # newest checkpoints

_RENAMED = {"streams": "sequences"}  # former keys of progress.json
_STEP = re.compile(r"step-\d{8,}")
_UNFINISHED = re.compile(r"\.step-\d{8,}\..+")  # of an interrupted save or deletion

log = logging.getLogger(__name__)


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
    """Write step ``progress['step']``, point `last` (and `best`) at it, delete old checkpoints.

    All bytes are on disk before `last` points at them. The ``tokenizer`` of a model
    (`text.tokenizer.Tokenizer`) is saved with it, because the embedding depends on it.
    """
    metrics = RunFolder(folder.parent).metrics
    if metrics.is_file():
        sync(metrics)  # a resumed run does not write these lines again
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
        write_json(
            temporary / SHA256_NAME, {each.name: _sha256(each) for each in temporary.iterdir()}
        )
    point_to(target, best=best)
    _prune(folder, target.name)
    return target


def point_to(checkpoint: Path, *, best: bool) -> None:
    """Make a checkpoint the last one, and the best one if it is.

    A best one of a later step was passed over as damaged, so it is forgotten.
    """
    folder, step = checkpoint.parent, _step_of(checkpoint.name)
    pointer = {"directory": checkpoint.name, "step": step}
    named = str((read_json_if_valid(folder / f"{BEST}.json") or {}).get("directory"))
    if best:
        write_json(folder / f"{BEST}.json", pointer)
    elif not _STEP.fullmatch(named) or _step_of(named) > step:
        (folder / f"{BEST}.json").unlink(missing_ok=True)
    write_json(folder / f"{LAST}.json", pointer)


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
            name = str(read_json(pointer).get("directory"))
            if not _STEP.fullmatch(name):
                raise CheckpointError(f"{pointer} names {name}, which is not a checkpoint's folder")
            if (pointer.parent / name / MODEL_NAME).is_file():
                return pointer.parent / name
            raise CheckpointError(f"{pointer} names {name}, which has no {MODEL_NAME}")
    raise CheckpointError(
        f"{path} is not a checkpoint; give a run's folder, its checkpoints/, checkpoints/best, "
        f"checkpoints/last or a folder with {MODEL_NAME}"
    )


def newest_undamaged(folder: Path) -> Path:
    """The newest checkpoint in ``folder`` whose files pass `verify`.

    It may be newer than `last`, if a kill came before the pointer was written. Damaged ones are
    logged. Raises CheckpointError if all are damaged.
    """
    for name in reversed(_steps(folder)):
        try:
            verify(folder / name, *_files(folder / name))
        except ConfigError as error:
            log.warning("%s; trying an older checkpoint", error)
        else:
            return folder / name
    raise CheckpointError(
        f"{folder} has no undamaged checkpoint; delete it to train from the start"
    )


def verify(folder: Path, *names: str) -> None:
    """Raise CheckpointError if one of the files ``names`` is missing, damaged or unreadable.

    A checkpoint of version 0.1 has no checksums; only the presence of its files is checked.
    """
    checksums = folder / SHA256_NAME
    expected = read_json(checksums) if checksums.is_file() else None
    for name in names:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            is_damaged = expected is not None and expected.get(name) != _sha256(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        if is_damaged:
            raise CheckpointError(f"{path} is damaged: its SHA-256 differs from {SHA256_NAME}")


def load_model(folder: Path, model: nn.Module) -> None:
    """Load the weights.

    Raises CheckpointError if they are damaged, do not fit ``model`` exactly or are not finite.
    """
    path = folder / MODEL_NAME
    verify(folder, MODEL_NAME)
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit the configured model: {one_line(error)}"
        ) from error
    except Exception as error:  # safetensors' own error type for a damaged file
        raise CheckpointError(f"{path} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} has values that are not finite")


def tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer saved with a checkpoint; None for a model whose tokens are not text.

    Raises CheckpointError if it is damaged.
    """
    if not (folder / TOKENIZER_NAME).is_file():
        return None
    verify(folder, TOKENIZER_NAME)
    return folder / TOKENIZER_NAME


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimizer's state exactly as `save_checkpoint` wrote it.

    Raises CheckpointError if the state is damaged or empty.
    """
    path = folder / OPTIMIZER_NAME
    verify(folder, OPTIMIZER_NAME)
    content = optimizer.state_dict()
    try:
        flat = load_file(path)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in flat.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = tensor
    except Exception as error:  # safetensors' own error type, or keys of another file
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    stateless = isinstance(optimizer, torch.optim.SGD) or read_progress(folder)["step"] == 0
    if not state and not stateless:
        raise CheckpointError(f"{path} has no state, although training had begun")
    optimizer.load_state_dict({**content, "state": state})


def read_progress(folder: Path) -> dict[str, Any]:
    """Where training stood, with the present names of its keys.

    Raises CheckpointError if it is damaged.
    """
    verify(folder, PROGRESS_NAME)
    progress = read_json(folder / PROGRESS_NAME)
    return {_RENAMED.get(key, key): value for key, value in progress.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _steps(folder: Path) -> list[str]:
    """The names of the checkpoints' folders, from the oldest to the newest."""
    names = [path.name for path in folder.glob("step-*") if _STEP.fullmatch(path.name)]
    return sorted(names, key=_step_of)


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _files(checkpoint: Path) -> list[str]:
    """The files that a checkpoint to resume from must have."""
    if (checkpoint / SHA256_NAME).is_file():
        return list(read_json(checkpoint / SHA256_NAME))
    return [MODEL_NAME, OPTIMIZER_NAME, PROGRESS_NAME]


def _prune(folder: Path, newest: str) -> None:
    """Delete all checkpoints but the newest ones and the best, and folders of an interrupted save.

    A checkpoint of a later step is a damaged one that a resumed run passed over.
    """
    steps = _steps(folder)
    kept = set(steps[: steps.index(newest) + 1][-KEPT:])
    kept.add((read_json_if_valid(folder / f"{BEST}.json") or {}).get("directory"))
    for name in steps:
        if name not in kept:  # renamed first: a half-deleted checkpoint must not look like one
            (folder / name).rename(folder / f".{name}.old")
    for path in folder.iterdir():
        if path.is_dir() and _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
