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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import (
    JOB_NAME,
    SWEEP_NAME,
    RunFolder,
    UnreadableFile,
    read_json,
    read_json_if_valid,
    write_json,
)
from atlas_bench.artifacts.records import why_failed
from atlas_bench.artifacts.saved_config import read_config
from atlas_bench.config.identity import NOT_IDENTITY, identity

DONE, FAILED, STOPPED, MISSING = "done", "failed", "unfinished", "missing"


@dataclass
class Job:
    """One line of the index; what is not known before a job starts is None."""

    number: int
    state: str  # done, failed, unfinished (killed or going on) or missing (not started yet)
    overrides: list[str] | None
    identity: str | None  # of the job's config: atlas_bench.config.identity.identity
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
    (folder / SWEEP_NAME).touch(exist_ok=False)
    missing = [Job(number, MISSING, each, None, None) for number, each in enumerate(jobs)]
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    write_json(folder / SWEEP_NAME, asdict(Index(same, list(words), missing, started)))


def read_index(folder: Path) -> Index | None:
    """What was last written; None where ``folder`` is no sweep's."""
    try:
        content = read_json(folder / SWEEP_NAME)
        jobs = [Job(**job) for job in content["jobs"]]
        return Index(content["identity"], content["command"], jobs, content.get("started", ""))
    except (ValueError, TypeError, KeyError):
        return None


def current_index(folder: Path) -> Index:
    """The index brought up to what the jobs' folders say.

    Raises FileNotFoundError where ``folder`` is no sweep's.
    """
    index = read_index(folder)
    if index is None:
        raise FileNotFoundError(f"{folder / SWEEP_NAME} is missing or damaged")
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
    write_json(folder / SWEEP_NAME, asdict(index))
    return index


def _found(sweep: Path, folder: Path) -> Job | None:
    """What a job's folder says; None where that is damaged."""
    files = RunFolder(folder)
    claim, config = read_json_if_valid(files.job), _config_of(files)
    try:
        number, overrides = int(claim["number"]), list(claim["overrides"])
    except (TypeError, KeyError, ValueError):
        return None
    state, reason = STOPPED, None
    if files.record.is_file():
        state = DONE
    elif files.failed.is_file():
        state, reason = FAILED, why_failed(folder)
    same = None if config is None else identity(config)  # not written yet
    return Job(number, state, overrides, same, folder.relative_to(sweep).as_posix(), reason)


def _config_of(job: RunFolder) -> dict[str, Any] | None:
    """The config of a job; None if it is not written yet, or damaged."""
    try:
        return read_config(job.config).values
    except UnreadableFile:
        return None


def find_unfinished(output_dir: Path, same: str) -> Path | None:
    """The newest sweep of this identity that has a job without a record."""
    found = []
    for path in output_dir.rglob(SWEEP_NAME):
        index = read_index(path.parent)
        if index is not None and index.identity == same:
            index = current_index(path.parent)
            if len(index.of(DONE)) < len(index.jobs):
                found.append((index.started, path.parent))
    return max(found)[1] if found else None


# one job -----------------------------------------------------------------------------------
