"""A run's folder: the names of its files, and the one way to write them.

outputs/DATE/TIME-NAME/
  config.json        the run's config; whoever creates this file owns the folder
  started.json       the commit and the text that the run began with
  metrics.jsonl      one line per training step
  predictions.jsonl  one line per answer
  evaluated.jsonl    what an evaluation has done so far; gone once there is a record
  checkpoints/       see checkpoint.py
  plots/  tokenizer/
  sessions.jsonl     one line per process that worked on the run
  validation/        predictions on the validation samples
  evaluations/NAME/  one folder like this one for each of the run's other evaluations
  record.json        written last: a run without it is not finished
  job.json  failed.json   in a sweep only: whose folder it is, and why the job failed
  run.lock           the process that works on the run; see lock.py
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atlas_bench.config.errors import ConfigError

CONFIG_NAME, RECORD_NAME = "config.json", "record.json"
STARTED_NAME = "started.json"
DAMAGED_RECORD_NAME = "record.damaged.json"  # a record that could not be read, set aside
METRICS_NAME, PREDICTIONS_NAME = "metrics.jsonl", "predictions.jsonl"
EVALUATED_NAME = "evaluated.jsonl"
JOB_NAME, FAILED_NAME = "job.json", "failed.json"
SWEEP_NAME = "sweep.json"  # the index in a sweep's folder
LOCK_NAME = "run.lock"  # of a run and of a sweep
LAST, BEST = "last", "best"  # what points at a checkpoint: checkpoints/last.json, best.json
# A folder with one of these and without a record belongs to a run that failed or is unfinished.
RUN_MARKS = ("config.yaml", CONFIG_NAME, METRICS_NAME, FAILED_NAME)
DEEPEST = 50  # lists and objects inside each other in a JSON file
# Folders inside a run that are not runs, although W&B keeps files called config.yaml too.
NOT_RUNS = ("checkpoints", "wandb")
# What a command writes into its folder before it owns the folder.
_LEFTOVERS = (".hydra", "atlas-bench.log", "tokenizer", LOCK_NAME)


class UnreadableFile(ConfigError):
    """A file cannot be read; the message is one sentence that names it."""


class RunFolder:
    """The files of the run in ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.record = path / CONFIG_NAME, path / RECORD_NAME
        self.started = path / STARTED_NAME
        self.metrics, self.predictions = path / METRICS_NAME, path / PREDICTIONS_NAME
        self.evaluated = path / EVALUATED_NAME
        self.checkpoints = path / "checkpoints"
        self.last_checkpoint = self.checkpoints / f"{LAST}.json"  # names the newest checkpoint
        self.sessions = path / "sessions.jsonl"
        self.plots = path / "plots"
        self.tokenizer = path / "tokenizer"  # of a pretrained model
        self.job, self.failed = path / JOB_NAME, path / FAILED_NAME
        self.lock = path / LOCK_NAME

    def __str__(self) -> str:
        return str(self.path)

    @property
    def can_resume(self) -> bool:
        """Whether a checkpoint was written."""
        return any(self.checkpoints.glob("step-[0-9]*"))

    @property
    def validation(self) -> RunFolder:
        """The folder for predictions on validation samples."""
        return RunFolder(self.path / "validation")

    def evaluation(self, name: str) -> RunFolder:
        """The folder of one of the run's other evaluations."""
        return RunFolder(self.path / "evaluations" / name)

    def discard(self) -> None:
        """Remove what a command left that failed before its run began.

        A folder that a run or a job owns is left alone, and so is every file that a command does
        not write before its run begins.
        """
        if any((self.path / name).exists() for name in (*RUN_MARKS, RECORD_NAME, JOB_NAME)):
            return
        for name in _LEFTOVERS:
            leftover = self.path / name
            with suppress(OSError):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        path = self.path.absolute()
        with suppress(OSError):  # a folder that is not empty stays
            for folder in (path, *path.parents[:3]):  # outputs/DATE/TIME-NAME; NAME may have a /
                if not Path.cwd().is_relative_to(folder):
                    folder.rmdir()


# writing -----------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it replaces ``path`` when the block succeeds.

    The new bytes are on disk before they replace the old ones. If the block fails, ``path`` is
    unchanged and no temporary file is left. The temporary path may also become a folder.
    """
    make_folder(path.parent)
    # Jobs of one sweep write its index from several machines, where process ids recur.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    old = temporary.with_name(f"{temporary.name}.old")
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            for written in temporary.iterdir():
                sync(written)
        sync(temporary)
        if path.is_dir():
            os.replace(path, old)
        os.replace(temporary, path)
        sync(path.parent)
    except Exception as error:
        error.add_note(str(path))  # an error of writing does not say where
        raise
    finally:
        _remove(temporary)
        _remove(old)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents; on return their names are on disk."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync(each.parent)


def create_folder(path: Path) -> Path:
    """Create ``path``, or PATH-2, PATH-3, ... if runs of the same second have taken it."""
    folder, numbers = path, itertools.count(2)
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            folder = path.with_name(f"{path.name}-{next(numbers)}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace ``path`` in one step, after the bytes are on disk."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append ``rows`` to a JSON Lines file; a value that JSON does not have becomes text."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
    except OSError as error:
        error.add_note(str(path))
        raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSON Lines file, none if it is missing; a line that a kill or a power cut
    damaged is passed over."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON Lines file in one step."""
    with replacing(path) as temporary:
        append_lines(temporary, rows)


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after ``step``, and an incomplete line that a kill left behind."""
    if path.is_file():
        rows = read_lines(path)
        write_lines(path, (row for row in rows if row.get("step", math.inf) <= step))


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# reading -----------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises UnreadableFile in one sentence."""
    try:
        if path.exists() and not path.is_file():  # to read a pipe would take for ever
            raise UnreadableFile(f"{path} is not a file")
        content = json.loads(path.read_text(encoding="utf-8"))
        if _depth(content) > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
    except OSError as error:
        raise UnreadableFile(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # broken JSON or UTF-8, or nested too deeply
        raise UnreadableFile(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableFile(f"{path} does not hold a JSON object")
    return content


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, (dict, list)) else 0


def find_upwards(path: Path, name: str) -> Path | None:
    """The file ``name`` of a run or checkpoint: in ``path`` or in one of two folders above it."""
    folders = (path, path.parent, path.parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_json_if_valid(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None if the file is missing or damaged."""
    try:
        return read_json(path)
    except UnreadableFile:
        return None
