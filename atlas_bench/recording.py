"""A run's record: what was measured, and everything that could have changed it."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from atlas_bench import __version__
from atlas_bench.checkpoint_config import training_of_checkpoint
from atlas_bench.config import RunSettings, as_dict
from atlas_bench.models.language_model import count_parameters
from atlas_bench.report.records import Record, Score
from atlas_bench.tasks.online import OnlineSettings
from atlas_bench.training.loop import Progress

if TYPE_CHECKING:
    from atlas_bench.evaluation.scoring import Scores
    from atlas_bench.preparation import Run

PACKAGES = (
    "torch", "numpy", "tokenizers", "hydra-core", "wandb", "datasets", "safetensors",
    "triton", "fla-core", "lm-eval", "transformers",
)  # fmt: skip


def record_of(
    run: Run,
    found: Scores,
    notes: list[str],
    progress: Progress,
    started_at: datetime.datetime,
) -> Record:
    """The record of a run that ended, but for its wall time."""
    settings, task = run.settings, run.task
    tokenizer = task.tokenizer
    config = as_dict(settings)
    if settings.mode == "eval":
        config |= training_of_checkpoint(settings.checkpoint)
    return Record(
        name=settings.name,
        model=model_name(settings),
        scale=scale_name(settings),
        task=task.settings.name,
        parameters=count_parameters(run.model),
        seed=config["seed"],
        scores=found.scores,
        depths=found.depths,
        wall_seconds=0.0,
        train_seconds=round(progress.seconds, 2),
        train_tokens=progress.tokens,
        versions=versions(),
        git_commit=run.commit,
        device=_device_name(run.device),
        tokenizer={
            "name": tokenizer.name if tokenizer else None,
            "fingerprint": tokenizer.fingerprint if tokenizer else None,
            "vocab_size": task.vocab_size,
        },
        protocol={
            **task.protocol(),
            "evaluation_seed": task.settings.seed,
            "trained": settings.mode != "eval",
            "train_tokens": progress.tokens,
        },
        config=config,
        started_at=started_at.isoformat(timespec="seconds"),
        notes=notes,
        state_bytes=_state_bytes(run, found.scores),
    )


def model_name(settings: RunSettings) -> str:
    """The model's name; where a task is learnt while it is measured, its network's."""
    if isinstance(settings.task, OnlineSettings):
        return settings.task.model_name
    return settings.model.name


def scale_name(settings: RunSettings) -> str:
    """The scale's name; a pretrained model has the size that it has."""
    if isinstance(settings.task, OnlineSettings):
        return settings.task.scale_name
    return settings.scale.name if settings.model.hub is None else "pretrained"


def _state_bytes(run: Run, scores: list[Score]) -> int | None:
    """Of one sequence at the longest length that was scored: a recurrent model's at any length."""
    return run.model.state_bytes(1, max((score.length_tokens for score in scores), default=0))


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    found = {"python": platform.python_version(), "atlas-bench": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` where it was changed; None outside git."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
