"""A run's folder on disk: the names of its files, and atomic writes."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECORD_NAME = "record.json"
FAILED_NAME = "failed.json"  # instead of a record, of a sweep's job that failed: why
# A folder with one of these and no record is a run that was stopped, failed or is going on.
RUN_MARKS = ("config.yaml", "config.json", "metrics.jsonl", FAILED_NAME)
# Parts of a run, no runs: W&B keeps files called config.yaml too.
NOT_RUNS = ("checkpoints", "wandb")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes its place when the block ends well.

    Whatever happens before that, the old file stays whole and no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A sweep's jobs write its index from several machines, where numbers of processes recur.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` in one step, after the bytes are on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and a half line that a kill left behind."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
