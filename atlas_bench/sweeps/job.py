"""One job of a sweep, in a folder of its own."""

from __future__ import annotations

import datetime
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import RunFolder, read_json_if_valid, write_json
from atlas_bench.artifacts.saved_config import read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import first_difference, identity
from atlas_bench.sweeps.index import refresh_index

try:
    import fcntl
except ImportError:  # Windows has no such lock; there two parents may do one job
    fcntl = None

_LOOK_SECONDS = 1.0  # between two looks at a job that another process is doing


@dataclass(frozen=True)
class JobStart:
    """One job as it is about to start."""

    number: int
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    sweep: Path
    again: bool = True  # whether it is tried again where it failed before

    @property
    def claim(self) -> dict[str, Any]:
        """What its folder says of it."""
        same = identity(self.config)
        return {"number": self.number, "identity": same, "overrides": self.overrides}


def do_job(job: JobStart, work: Callable[[], object]) -> Path | None:
    """Do ``work``, which leaves a record in the job's folder, unless its record is there.

    The path of the record, or None where the job failed: the reason is then in its folder, or in
    one for that alone where its folder is of another job or config. Where another process is doing
    the same job, as after a parent was killed whose jobs live on, this waits for it and does what
    it left undone.
    """
    folder, refused = RunFolder(job.folder), RunFolder(job.sweep / f"refused-{job.number}")
    try:
        with _alone(folder.job_lock):
            try:
                _check_own(job)
            except ConfigError as error:
                write_json(refused.job, job.claim)
                _tell(refused, error)
                return None
            _forget(refused)
            failed_before = folder.failed.is_file() and job.claim["identity"] == (
                read_json_if_valid(folder.job) or {}
            ).get("identity")
            write_json(folder.job, job.claim)
            if not folder.record.is_file() and (job.again or not failed_before):
                folder.failed.unlink(missing_ok=True)
                try:
                    work()
                except Exception as error:
                    _tell(folder, error)
    finally:
        refresh_index(job.sweep)
    return folder.record if folder.record.is_file() else None


def _check_own(job: JobStart) -> None:
    """Raise ConfigError where the job's folder is of another job or config, or lies elsewhere."""
    folder, claim = job.folder, read_json_if_valid(RunFolder(job.folder).job)
    if not folder.resolve().is_relative_to(job.sweep.resolve()):
        raise ConfigError(f"{folder} is outside of the sweep's folder; change hydra.sweep.subdir")
    if claim is not None and claim.get("number") != job.number:
        raise ConfigError(
            f"{folder} is the folder of job {claim.get('number')}; hydra.sweep.subdir must give "
            f"each job one of its own, as with ${{hydra.job.num}} in it"
        )
    if RunFolder(folder).config.is_file():
        saved = read_config(RunFolder(folder).config)
        if difference := first_difference(saved.values, job.config):
            raise ConfigError(f"{folder} was started with another config: {difference}")


def _forget(refused: RunFolder) -> None:
    """Remove what an earlier try left that was refused its folder."""
    for path in (refused.job, refused.failed):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        refused.path.rmdir()


def _tell(folder: RunFolder, error: Exception) -> None:
    """Write the failure down, and say it."""
    reason = str(error) if _explained(error) else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())
    content = {
        "reason": reason,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "traceback": traceback.format_exc(),
    }
    write_json(folder.failed, content)
    print(f"atlas-bench: {folder.path.name} failed: {reason}", file=sys.stderr)


def _explained(error: Exception) -> bool:
    """Whether the message is a sentence of ours that needs no name of a class before it."""
    return type(error).__module__.startswith("atlas_bench.")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock ``path``, where there are locks; a process that dies lets go of its own."""
    with path.open("a") as file:
        said = False
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    print(f"{path.parent.name}: another process is doing this job, waiting for it")
                said = True
                time.sleep(_LOOK_SECONDS)
            except OSError:  # some network file systems have no locks either
                break
        yield
