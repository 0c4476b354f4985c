"""One job of a sweep, in a folder of its own."""

from __future__ import annotations

import datetime
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import RunFolder, read_json_if_valid, write_json
from atlas_bench.artifacts.lock import locked
from atlas_bench.artifacts.records import try_record
from atlas_bench.artifacts.saved_config import read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.resume import difference_from_saved
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import FAILED, read_job, refresh_index, same_overrides


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
    If another process of this machine is doing the same job, for instance one that outlived its
    sweep, this waits for it first; if one of another machine is, the job is refused.
    """
    refused = RunFolder(job.sweep / f"refused-{job.number}")
    claim = {"number": job.number, "overrides": job.overrides}
    try:
        with locked(job.folder.lock, wait=True):
            _check_owner(job)
            _remove_refusal(refused)
            _do(job, claim, work)
    except ConfigError as error:
        write_json(refused.job, claim)
        _write_failure(refused, error)
        return None
    finally:
        refresh_index(job.sweep)
    return job.folder.record if try_record(job.folder)[0] else None


def _do(job: JobStart, claim: dict[str, Any], work: Callable[[], object]) -> None:
    """Call ``work`` in the folder that is the job's own, unless that is done or not to be tried."""
    folder, before = job.folder, read_job(job.sweep, job.folder.path)
    failed = (
        before is not None
        and before.state == FAILED
        and same_overrides(before.overrides, job.overrides)
    )
    write_json(folder.job, claim)
    if try_record(folder)[0] is not None or (failed and not job.again):
        return
    folder.failed.unlink(missing_ok=True)
    try:
        work()
    except Exception as error:
        _write_failure(folder, error)


def _check_owner(job: JobStart) -> None:
    """Raise ConfigError if the folder is another job's or config's, or outside of the sweep's.

    A config that a power cut emptied is removed.
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
