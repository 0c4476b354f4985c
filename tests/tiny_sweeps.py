"""Sweeps of jobs that take a second, started as a user does."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from in_process import atlas_bench

from atlas_bench.sweeps.index import Index, read_index

TINY = [
    "model=deltanet", "scale=tiny", "task=mqar", "task.grid=[{length:64,pairs:4}]",
    "task.vocab_size=64", "task.train_examples=64", "task.test_examples=4", "training.epochs=null",
    "training.tokens=512", "training.min_sequences=2",
    "training.checkpoint_every=2", "logger=none", "hardware.device=cpu",
]  # fmt: skip


def installed(package: str) -> bool:
    """Whether a package of the extra [sweep] is there; find_spec would trip over its namespace."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    """The sweep in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from atlas_bench.cli.run import main; main()", "-m", *TINY, *words],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "HOME": str(folder)},
    )  # fmt: skip


def sweep(*words: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the whole sweep."""
    process = start(*words, folder=folder)
    said, errors = process.communicate(timeout=500)
    return process.returncode, said, errors


def sweep_here(*words: str) -> int:
    """The exit code of the sweep in this process, in the working directory; plots are not drawn."""
    return atlas_bench("-m", *TINY, *words)


def only_index(folder: Path) -> tuple[Path, Index]:
    """The only sweep below ``folder``: where it is, and its index."""
    (path,) = folder.glob("outputs/*/*/sweep.json")
    return path.parent, read_index(path.parent)


def steps_of(job: Path) -> list[int]:
    """The training steps that a job has gone through, each as often as it did."""
    lines = (job / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]
