"""Provenance of a run: versions, commit, device and text."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

import atlas_bench
from atlas_bench.artifacts.folder import STARTED_NAME, RunFolder, find_upwards, read_json
from atlas_bench.artifacts.saved_config import training_of_checkpoint
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import first_difference
from atlas_bench.config.locations import folder_of
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import Task
from atlas_bench.text.content import PACKAGE, content_of
from atlas_bench.text.corpora import STREAM
from atlas_bench.text.settings import TextSettings

COMMIT_OF_WHEEL = Path(__file__).parent.parent / "_data/commit.txt"  # hatch_build.py writes it
TOKENIZER_KEYS = ("tokenizer", "vocab_size")
PACKAGES = (
    "torch", "numpy", "tokenizers", "hydra-core", "wandb", "datasets", "safetensors",
    "triton", "fla-core", "lm-eval", "transformers", "regex", PACKAGE,
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    installed = {"python": platform.python_version(), "atlas-bench": atlas_bench.__version__}
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


@cache  # the same for each of a run's evaluations
def code_hash() -> str:
    """SHA-256 of the package's files and of the lm-eval tasks: unlike a commit, it tells changed
    files apart."""
    digest = hashlib.sha256()
    for root in (Path(atlas_bench.__file__).parent, folder_of("tasks")):
        for file in sorted(root.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.read_bytes())
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    """The GPU, or the CPU's architecture and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def facts_of_start(task: Task, commit: str | None) -> dict[str, Any]:
    """What a resumed run is compared with: the commit, and the content of the task's text."""
    return {"git_commit": commit, "text": content_of(task.text) if task.tokenizer else {}}


def changes_since_start(folder: RunFolder, task: Task, now: dict[str, Any]) -> list[str]:
    """A sentence on another commit than that with which the run in ``folder`` began.

    Raises ConfigError if its text has changed since.
    """
    if not folder.started.is_file():  # a new run, or one of version 0.1
        return []
    before = read_json(folder.started)
    if before.get("text") != now["text"]:
        raise ConfigError(
            f"{folder} was started with another content of {_name(task.text)} "
            f"({_shown(before.get('text'))}; now {_shown(now['text'])}); restore it, or start a "
            f"new run without resume"
        )
    commits = before.get("git_commit"), now["git_commit"]
    if None in commits or commits[0] == commits[1]:
        return []
    return [f"started at commit {commits[0]}, resumed at commit {commits[1]}"]


def own_text_of(folder: RunFolder, task: Task) -> tuple[dict[str, Any], list[str]]:
    """The content of the user's own text for a protocol, and a sentence if it is another now.

    Both are empty for other texts.
    """
    if task.tokenizer is None or task.text.source != "folder":
        return {}, []
    content, now = read_json(folder.started)["text"], None
    with contextlib.suppress(ValueError):  # the results must not be lost with the files
        now = content_of(task.text)
    changes = [] if now == content else [f"{_name(task.text)} has changed during the run"]
    return {"own_text": content}, changes


def _name(text: TextSettings) -> str:
    given = {"folder": text.folder, STREAM: text.dataset}
    key = {"folder": "folder", STREAM: "dataset"}.get(text.source, "source")
    return f"text.{key}={given.get(text.source, text.source)}"


def _shown(content: Any) -> str:
    facts = content.items() if isinstance(content, dict) else ()
    return ", ".join(f"{key} {str(value)[:16]}" for key, value in facts) or "unknown"


def not_as_trained(settings: RunSettings, folder: RunFolder) -> list[str]:
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
    elif started := find_upwards(Path(settings.checkpoint), STARTED_NAME):
        before, now = (read_json(file).get("text") for file in (started, folder.started))
        if before and now and before != now:
            notes.append(
                f"trained with another content of {_name(settings.text)} ({_shown(before)}; now "
                f"{_shown(now)})"
            )
    return notes
