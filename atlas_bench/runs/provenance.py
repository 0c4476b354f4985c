"""Provenance of a run: versions, commit and device."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from atlas_bench import __version__
from atlas_bench.artifacts.saved_config import training_of_checkpoint
from atlas_bench.config.identity import first_difference
from atlas_bench.runs.settings import RunSettings

COMMIT_OF_WHEEL = Path(__file__).parent.parent / "_data/commit.txt"  # hatch_build.py writes it
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


def git_commit(source: Path = Path(__file__)) -> str | None:
    """The commit of the source tree, with ``-dirty`` if a file is changed, or that of which a wheel
    was built; None if it is unknown. A repository that only contains an environment does not count.
    """
    if COMMIT_OF_WHEEL.is_file():
        return COMMIT_OF_WHEEL.read_text(encoding="utf-8").strip()
    git = ["git", "-C", str(source.resolve().parent)]
    tracked = [*git, "ls-files", "--error-unmatch", source.name]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        for command in (tracked, describe):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def session(
    command: Sequence[str], device: torch.device, precision: str, commit: str | None
) -> dict[str, Any]:
    """What one process that works on a run is: when, where, from which code and how."""
    return {
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "git_commit": commit,
        "host": platform.node(),
        "os": platform.platform(),
        "cpu": cpu_name(),
        "device": device_name(device),
        "precision": precision,
        "versions": versions(),
    }


def cpu_name() -> str:
    """The processor's model, and the instructions that torch uses of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


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
