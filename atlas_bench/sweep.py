"""A sweep's folder: one folder a job, whose own files say how the job ended, and an index of them.

outputs/DATE/TIME-sweep/   sweep.json   0-atlas-babilong/   1-titans-babilong/   ...

The index is made from the jobs' folders whenever a job ends, so that it cannot contradict them, and
a sweep that was killed is gone on with by doing its jobs again: one whose record is there returns
at once. What a folder holds of another job or config is never taken for a job's own, nor changed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atlas_bench.config import NOT_IDENTITY, ConfigError, identity
from atlas_bench.report.records import FAILED_NAME, RECORD_NAME, replacing, why_failed
from atlas_bench.resume import first_difference

try:
    import fcntl
except ImportError:  # Windows has no such lock; there two parents may do one job
    fcntl = None

INDEX_NAME = "sweep.json"
JOB_NAME = "job.json"  # whose a folder is; Hydra's own files are of the last that came there
LOCK_NAME = "job.lock"
DONE, FAILED, STOPPED, MISSING = "done", "failed", "unfinished", "missing"
_LOOK_SECONDS = 1.0  # between two looks at a job that another process is doing


@dataclass
class Job:
    """One line of the index; what is not known before a job starts is None."""

    number: int
    state: str  # done, failed, unfinished (killed or going on) or missing (not started yet)
    overrides: list[str] | None
    identity: str | None  # of the job's config: atlas_bench.config.identity
    folder: str | None  # in the sweep's
    reason: str | None = None  # of a failure, one sentence


@dataclass
class Index:
    """All jobs of a sweep, in the order of their numbers."""

    identity: str  # of the sweep
    command: list[str]  # its words, to start it again
    jobs: list[Job]
    started: str  # ISO 8601; the folder's own time changes whenever a job ends

    def of(self, *states: str) -> list[Job]:
        """The jobs in one of these states."""
        return [job for job in self.jobs if job.state in states]


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


def sweep_identity(
    first_job: dict[str, Any], fixed: Sequence[str], lists: Sequence[str] = ()
) -> str:
    """A hash of what a sweep computes: its first job's config and all it is varied by.

    Of overrides, the ``lists`` number the jobs by their order, that of all others does not count,
    nor does where the jobs run and where they log.
    """
    kept = [sorted(fixed), list(lists)]
    same = [identity(first_job), *([w for w in words if not _of_place(w)] for words in kept)]
    return hashlib.sha256(json.dumps(same).encode()).hexdigest()[:16]


def _of_place(word: str) -> bool:
    key = word.lstrip("+~").split("=", 1)[0]
    return key.split(".")[0] in NOT_IDENTITY or key.startswith(("hydra.launcher", "hydra.sweep."))


# the index ---------------------------------------------------------------------------------


def start_index(
    folder: Path, same: str, words: Sequence[str], jobs: list[list[str] | None]
) -> None:
    """Write the index of a sweep that has not begun: ``jobs`` are their overrides, where known.

    Raises FileExistsError for a folder that has an index, be it of a sweep of the same second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX_NAME).touch(exist_ok=False)
    missing = [Job(number, MISSING, each, None, None) for number, each in enumerate(jobs)]
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    _write(folder / INDEX_NAME, asdict(Index(same, list(words), missing, started)))


def read_index(folder: Path) -> Index | None:
    """What was last written; None where ``folder`` is no sweep's."""
    try:
        content = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        jobs = [Job(**job) for job in content["jobs"]]
        return Index(content["identity"], content["command"], jobs, content.get("started", ""))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def current_index(folder: Path) -> Index:
    """The index brought up to what the jobs' folders say.

    Raises FileNotFoundError where ``folder`` is no sweep's.
    """
    index = read_index(folder)
    if index is None:
        raise FileNotFoundError(f"{folder / INDEX_NAME} is missing or damaged")
    found: dict[int, Job] = {}
    for here, folders, files in os.walk(folder):
        if JOB_NAME in files:
            if Path(here) != folder:
                folders.clear()  # what is in a job's folder is the job's
            job = _found(folder, Path(here))
            # Of two a failure counts: the job was refused the folder that has its number.
            if job is not None and (job.number not in found or job.state == FAILED):
                found[job.number] = job
    jobs = {job.number: job for job in index.jobs} | found
    index.jobs = [jobs[number] for number in sorted(jobs)]
    return index


def refresh_index(folder: Path) -> Index:
    """`current_index`, and written."""
    index = current_index(folder)
    _write(folder / INDEX_NAME, asdict(index))
    return index


def _found(sweep: Path, folder: Path) -> Job | None:
    """What a job's folder says; None where that is damaged."""
    claim, config = _read(folder / JOB_NAME), _read(folder / "config.json")
    try:
        number, overrides = int(claim["number"]), list(claim["overrides"])
    except (TypeError, KeyError, ValueError):
        return None
    state, reason = STOPPED, None
    if (folder / RECORD_NAME).is_file():
        state = DONE
    elif (folder / FAILED_NAME).is_file():
        state, reason = FAILED, why_failed(folder)
    same = None if config is None else identity(config)  # not written yet
    return Job(number, state, overrides, same, folder.relative_to(sweep).as_posix(), reason)


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object at ``path``; None where there is none or it is damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def find_unfinished(output_dir: Path, same: str) -> Path | None:
    """The newest sweep of this identity that has a job without a record."""
    found = []
    for path in output_dir.rglob(INDEX_NAME):
        index = read_index(path.parent)
        if index is not None and index.identity == same:
            index = current_index(path.parent)
            if len(index.of(DONE)) < len(index.jobs):
                found.append((index.started, path.parent))
    return max(found)[1] if found else None


# one job -----------------------------------------------------------------------------------


def do_job(job: JobStart, work: Callable[[], object]) -> Path | None:
    """Do ``work``, which leaves a record in the job's folder, unless its record is there.

    The path of the record, or None where the job failed: the reason is then in its folder, or in
    one for that alone where its folder is of another job or config. Where another process is doing
    the same job, as after a parent was killed whose jobs live on, this waits for it and does what
    it left undone.
    """
    record, refused = job.folder / RECORD_NAME, job.sweep / f"refused-{job.number}"
    try:
        with _alone(job.folder / LOCK_NAME):
            try:
                _check_own(job)
            except ConfigError as error:
                _write(refused / JOB_NAME, job.claim)
                _tell(refused, error)
                return None
            _forget(refused)
            failed_before = (job.folder / FAILED_NAME).is_file() and job.claim["identity"] == (
                _read(job.folder / JOB_NAME) or {}
            ).get("identity")
            _write(job.folder / JOB_NAME, job.claim)
            if not record.is_file() and (job.again or not failed_before):
                (job.folder / FAILED_NAME).unlink(missing_ok=True)
                try:
                    work()
                except Exception as error:
                    _tell(job.folder, error)
    finally:
        refresh_index(job.sweep)
    return record if record.is_file() else None


def _check_own(job: JobStart) -> None:
    """Raise ConfigError where the job's folder is of another job or config, or lies elsewhere."""
    folder, claim = job.folder, _read(job.folder / JOB_NAME)
    if not folder.resolve().is_relative_to(job.sweep.resolve()):
        raise ConfigError(f"{folder} is outside of the sweep's folder; change hydra.sweep.subdir")
    if claim is not None and claim.get("number") != job.number:
        raise ConfigError(
            f"{folder} is the folder of job {claim.get('number')}; hydra.sweep.subdir must give "
            f"each job one of its own, as with ${{hydra.job.num}} in it"
        )
    theirs = _read(folder / "config.json")
    if theirs is not None and identity(theirs) != identity(job.config):
        raise ConfigError(
            f"{folder} was started with another config: {first_difference(theirs, job.config)}"
        )


def _forget(refused: Path) -> None:
    """Remove what an earlier try left that was refused its folder."""
    for name in (JOB_NAME, FAILED_NAME):
        (refused / name).unlink(missing_ok=True)
    with suppress(OSError):
        refused.rmdir()


def _tell(folder: Path, error: Exception) -> None:
    """Write the failure down, and say it."""
    reason = str(error) if _explained(error) else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())
    content = {
        "reason": reason,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "traceback": traceback.format_exc(),
    }
    _write(folder / FAILED_NAME, content)
    print(f"atlas-bench: {folder.name} failed: {reason}", file=sys.stderr)


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
