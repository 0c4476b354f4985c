"""Provenance of a run: versions, commit and device."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch

from atlas_bench import __version__
from atlas_bench.artifacts.saved_config import training_of_checkpoint
from atlas_bench.config.identity import first_difference
from atlas_bench.runs.settings import RunSettings

TOKENIZER_KEYS = ("tokenizer", "vocab_size")
PACKAGES = (
    "torch", "numpy", "tokenizers", "hydra-core", "wandb", "datasets", "safetensors",
    "triton", "fla-core", "lm-eval", "transformers",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    installed = {"python": platform.python_version(), "atlas-bench": __version__}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def git_commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` if a file is changed; None outside git."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def device_name(device: torch.device) -> str:
    """The GPU, or the CPU's architecture and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def not_as_trained(settings: RunSettings) -> list[str]:
    """Sentences on the task and the text, where they are not those of the checkpoint's training."""
    trained_on = training_of_checkpoint(settings.checkpoint).get("trained_on")
    if trained_on is None:
        return []
    notes = []
    trained, evaluated = (trained_on["task"] or {}).get("name"), settings.task.name
    if trained not in (None, evaluated):
        notes.append(f"trained on task={trained}, evaluated on task={evaluated}")
    own = dict.fromkeys(TOKENIZER_KEYS)  # not compared: a checkpoint brings its tokenizer
    before, now = (trained_on["text"] or {}) | own, asdict(settings.text) | own
    if difference := first_difference(before, now, "text."):
        key, before, now = difference
        notes.append(f"trained with {key}={before}, evaluated with {key}={now}")
    return notes
