"""One job of a sweep, in a folder of its own."""

from __future__ import annotations

import datetime
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from atlas_bench.artifacts.folder import RunFolder, read_json_if_valid, write_json
from atlas_bench.artifacts.saved_config import read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.resume import difference_from_saved
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import refresh_index

try:
    import fcntl
except ImportError:  # Windows has no such lock; there two sweeps may do the same job at once
    fcntl = None


@dataclass(frozen=True)
class JobStart:
    """One job as it is about to start."""

    number: int
    overrides: list[str]
    settings: RunSettings | None  # None: they are wrong, and the work will say why
    folder: RunFolder
    sweep: Path
    again: bool = True  # whether a job that failed before is tried again


def do_job(job: JobStart, work: Callable[[], object]) -> Path | None:
    """Call ``work``, which writes a record to the job's folder, unless the record exists.

    Returns the path of the record, or None if the job failed. The reason is then in failed.json:
    in the job's folder or, if that belongs to another job or config, in a folder for the refusal.
    If another process is doing the same job, for instance one that outlived its sweep, this waits
    for it first.
    """
    folder, refused = job.folder, RunFolder(job.sweep / f"refused-{job.number}")
    claim = {"number": job.number, "overrides": job.overrides}
    try:
        with _locked(folder.job_lock):
            try:
                _check_owner(job)
            except ConfigError as error:
                write_json(refused.job, claim)
                _write_failure(refused, error)
                return None
            _remove_refusal(refused)
            before = read_json_if_valid(folder.job) or {}
            was_tried = folder.failed.is_file() and before.get("overrides") == job.overrides
            write_json(folder.job, claim)
            if not folder.record.is_file() and (job.again or not was_tried):
                folder.failed.unlink(missing_ok=True)
                try:
                    work()
                except Exception as error:
                    _write_failure(folder, error)
    finally:
        refresh_index(job.sweep)
    return folder.record if folder.record.is_file() else None


def _check_owner(job: JobStart) -> None:
    """Raise ConfigError if the folder is another job's or config's, or outside of the sweep's.

    A job killed as it claimed its folder leaves an empty config, which is removed.
    """
    folder, claim = job.folder, read_json_if_valid(job.folder.job)
    if not folder.path.resolve().is_relative_to(job.sweep.resolve()):
        raise ConfigError(f"{folder} is outside of the sweep's folder; change hydra.sweep.subdir")
    if claim is not None and claim.get("number") != job.number:
        raise ConfigError(
            f"{folder} is the folder of job {claim.get('number')}; hydra.sweep.subdir must give "
            f"each job its own folder, as with ${{hydra.job.num}} in it"
        )
    if not folder.config.is_file():
        return
    if not folder.config.stat().st_size:
        folder.config.unlink()
    elif job.settings is not None:
        difference = difference_from_saved(read_config(folder.config), job.settings)
        if difference:
            raise ConfigError(f"{folder} was started with another config: {difference}")


def _remove_refusal(refused: RunFolder) -> None:
    """Remove what an earlier try left that was refused its folder."""
    for path in (refused.job, refused.failed):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        refused.path.rmdir()


def _write_failure(folder: RunFolder, error: Exception) -> None:
    """Write failed.json and print the reason."""
    is_sentence = type(error).__module__.startswith("atlas_bench.")
    reason = str(error) if is_sentence else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())
    content = {
        "reason": reason,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "traceback": traceback.format_exc(),
    }
    write_json(folder.failed, content)
    print(f"atlas-bench: {folder.path.name} failed: {reason}", file=sys.stderr)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path``; the system releases it when its process dies."""
    with path.open("a") as file:
        if fcntl is not None:
            with suppress(OSError):  # some network file systems have no locks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print(f"{path.parent.name}: another process is doing this job, waiting for it")
                    fcntl.flock(file, fcntl.LOCK_EX)
        yield
