"""A sweep's folder: one folder a job, whose own files say how the job ended, and an index of them.

outputs/DATE/TIME-sweep/   sweep.json   0-atlas-babilong/   1-titans-babilong/   ...

The index is made from the jobs' folders whenever a job ends, so that it cannot contradict them, and
a sweep that was killed is gone on with by doing its jobs again: one whose record is there returns
at once.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from atlas_bench.config import NOT_IDENTITY, identity
from atlas_bench.report.records import FAILED_NAME, RECORD_NAME, replacing, why_failed

try:
    import fcntl
except ImportError:  # Windows has no such lock; there two parents may do one job
    fcntl = None

INDEX_NAME = "sweep.json"
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

    def of(self, *states: str) -> list[Job]:
        """The jobs in one of these states."""
        return [job for job in self.jobs if job.state in states]


def sweep_identity(first_job: dict[str, Any], words: Sequence[str]) -> str:
    """A hash of what a sweep computes: its first job's config and all it is varied by.

    ``words`` are overrides; where the jobs run and where they log does not count.
    """
    kept = sorted(word for word in words if not _of_place(word))
    return hashlib.sha256(json.dumps([identity(first_job), kept]).encode()).hexdigest()[:16]


def _of_place(word: str) -> bool:
    key = word.lstrip("+~").split("=", 1)[0]
    return key.split(".")[0] in NOT_IDENTITY or key.startswith(("hydra.launcher", "hydra.sweep."))


# the index ---------------------------------------------------------------------------------


def start_index(
    folder: Path, same: str, words: Sequence[str], jobs: list[list[str] | None]
) -> None:
    """Write the index of a sweep that has not begun: ``jobs`` are their overrides, where known."""
    missing = [Job(number, MISSING, each, None, None) for number, each in enumerate(jobs)]
    _write(folder, Index(same, list(words), missing))


def read_index(folder: Path) -> Index | None:
    """What was last written; None where ``folder`` is no sweep's."""
    try:
        content = json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
        jobs = [Job(**job) for job in content["jobs"]]
        return Index(content["identity"], content["command"], jobs)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def refresh_index(folder: Path) -> Index:
    """The index brought up to what the jobs' folders say, and written."""
    index = read_index(folder)
    if index is None:
        raise FileNotFoundError(f"{folder / INDEX_NAME} is missing or damaged")
    jobs = {job.number: job for job in index.jobs}
    for path in folder.glob("*/.hydra/hydra.yaml"):
        job = _found(path.parent.parent)
        if job is not None:
            jobs[job.number] = job
    index.jobs = [jobs[number] for number in sorted(jobs)]
    _write(folder, index)
    return index


def _found(folder: Path) -> Job | None:
    """What a job's folder says; None where it was killed before it could say anything."""
    try:
        text = (folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8")
        hydra = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["hydra"]
        number, overrides = int(hydra["job"]["num"]), hydra["overrides"]["task"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    same = None
    with suppress(OSError, ValueError):  # not written yet
        same = identity(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    state, reason = STOPPED, None
    if (folder / RECORD_NAME).is_file():
        state = DONE
    elif (folder / FAILED_NAME).is_file():
        state, reason = FAILED, why_failed(folder)
    return Job(number, state, overrides, same, folder.name, reason)


def _write(folder: Path, index: Index) -> None:
    with replacing(folder / INDEX_NAME) as temporary:
        temporary.write_text(json.dumps(asdict(index), indent=2) + "\n", encoding="utf-8")


def find_unfinished(output_dir: Path, same: str) -> Path | None:
    """The newest sweep of this identity that has a job without a record."""
    found = []
    for path in output_dir.rglob(INDEX_NAME):
        index = read_index(path.parent)
        if index is not None and index.identity == same:
            index = refresh_index(path.parent)
            if len(index.of(DONE)) < len(index.jobs):
                found.append((path.parent.stat().st_mtime, path.parent))
    return max(found)[1] if found else None


# one job -----------------------------------------------------------------------------------


def do_job(folder: Path, work: Callable[[], object]) -> Path | None:
    """Do ``work``, which leaves a record in ``folder``, unless the record is there.

    The path of the record, or None where ``work`` failed: the reason is then in ``folder``. Where
    another process is doing the same job, as after a parent was killed whose jobs live on, this
    waits for it and does what it left undone.
    """
    record = folder / RECORD_NAME
    try:
        with _alone(folder / LOCK_NAME):
            if not record.is_file():
                (folder / FAILED_NAME).unlink(missing_ok=True)
                try:
                    work()
                except Exception as error:
                    _tell(folder, error)
    finally:
        refresh_index(folder.parent)
    return record if record.is_file() else None


def _tell(folder: Path, error: Exception) -> None:
    """Write the failure down, and say it."""
    reason = str(error) if _explained(error) else f"{type(error).__name__}: {error}"
    reason = " ".join(reason.split())
    content = {
        "reason": reason,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "traceback": traceback.format_exc(),
    }
    with replacing(folder / FAILED_NAME) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"atlas-bench: {folder.name} failed: {reason}", file=sys.stderr)


def _explained(error: Exception) -> bool:
    """Whether the message is a sentence of ours that needs no name of a class before it."""
    return type(error).__module__.startswith("atlas_bench.")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock ``path``; a process that dies lets go of its locks."""
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
        yield
