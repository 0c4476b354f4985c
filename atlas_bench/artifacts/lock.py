"""One process at a time for each run and each sweep.

The lock is a file that names its owner, because network file systems may lack the system's locks.
A killed process leaves its lock behind. On the same machine, or in a requeued job of Slurm, the
next process sees that the owner has ended and takes the lock over.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from atlas_bench.artifacts.folder import make_folder, read_json_if_valid
from atlas_bench.config.errors import ConfigError

SAME_START_SECONDS = 2  # clocks are corrected, so the start of a process is known up to this
WRITTEN_WITHIN_SECONDS = 60  # an older lock without content was left by a power cut
SETTLED_SECONDS = 0.2  # processes that found the same lock left behind have replaced it by then


class AlreadyRunning(ConfigError):
    """Another process holds the lock; the message says which, and how to go on."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock."""

    host: str
    pid: int
    started: float  # Unix time; a later process may get the same id
    slurm_job: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether the process ran on this machine."""
        return self.host == platform.node()

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        if not self.is_here:  # Slurm runs a job on another machine only after it ended on the first
            return self.slurm_job is not None and self.slurm_job == os.environ.get("SLURM_JOB_ID")
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START_SECONDS
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def this_process() -> Owner:
    """This process as an owner."""
    started = psutil.Process().create_time()
    return Owner(platform.node(), os.getpid(), started, os.environ.get("SLURM_JOB_ID"))


def holder(lock: Path) -> Owner | None:
    """The process that holds ``lock``; None if there is none, or if it is known to have ended."""
    owner = _read(lock)
    return None if owner is None or owner.has_ended else owner


def check_free(lock: Path) -> None:
    """Raise AlreadyRunning if another process holds ``lock``."""
    if owner := holder(lock):
        raise AlreadyRunning(_message(lock, owner))


@contextmanager
def locked(lock: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``lock``.

    ``wait`` for another process of this machine to release it. Raises AlreadyRunning for a process
    of another machine, and without ``wait`` for any.
    """
    make_folder(lock.parent)
    ours, waits = this_process(), False
    while not (_take(lock, ours) or _take_over(lock, ours)):
        owner = holder(lock)
        if owner is not None and not (wait and owner.is_here):
            raise AlreadyRunning(_message(lock, owner))
        if owner is not None and not waits:
            waits = True
            print(f"{lock.parent.name}: process {owner.pid} is doing this job, waiting for it")
        time.sleep(0.1)
    try:
        yield
    finally:
        if _read(lock) == ours:
            lock.unlink(missing_ok=True)


def _take(lock: Path, owner: Owner) -> bool:
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(owner)))
    except FileExistsError:
        return False
    return True


def _read(lock: Path) -> Owner | None:
    try:
        return Owner(**(read_json_if_valid(lock) or {}))
    except TypeError:
        return None


def _take_over(lock: Path, owner: Owner) -> bool:
    """Take a lock whose owner has ended. Of several processes that do so at once one succeeds."""
    temporary = lock.with_name(f".{lock.name}.{owner.host}.{owner.pid}")
    temporary.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    try:
        if holder(lock) is not None or _is_being_written(lock):
            return False
        temporary.replace(lock)
    finally:
        temporary.unlink(missing_ok=True)
    time.sleep(SETTLED_SECONDS)
    return _read(lock) == owner


def _is_being_written(lock: Path) -> bool:
    try:
        age = time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return True  # just released
    return _read(lock) is None and age < WRITTEN_WITHIN_SECONDS


def _message(lock: Path, owner: Owner) -> str:
    how = "" if owner.is_here else f"; if that process has ended, delete {lock}"
    return f"{lock.parent} is already running, as process {owner.pid} on {owner.host}{how}"
