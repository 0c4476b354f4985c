"""A sweep's folder: one folder for each job, and an index of them.

outputs/DATE/TIME-sweep/   sweep.json   0-atlas-babilong/   1-titans-babilong/   ...

The files in a job's folder say how the job ended. The index repeats it whenever a job ends, so the
two cannot contradict each other. A sweep that was killed is resumed by doing its jobs again: a job
whose record exists returns at once. A folder that belongs to another job or config is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from atlas_bench.artifacts.folder import (
    JOB_NAME,
    SWEEP_NAME,
    RunFolder,
    read_json_if_valid,
    write_json,
)
from atlas_bench.artifacts.records import try_record, why_failed
from atlas_bench.config.identity import NOT_IDENTITY
from atlas_bench.config.renamed import RENAMED_KEYS

DONE, FAILED, STOPPED, MISSING = "done", "failed", "unfinished", "missing"


@dataclass
class Job:
    """One entry of the index."""

    number: int
    # done, failed, unfinished (killed, still running, or with a damaged record) or missing
    state: str
    overrides: list[str] | None  # None: an optimizer has not drawn them yet
    folder: str | None = None  # relative to the sweep's folder; None for a missing job
    reason: str | None = None  # why the job failed, or what is wrong with its record


@dataclass
class Index:
    """All jobs of a sweep, in the order of their numbers."""

    command: list[str]  # overrides of the command that started the sweep
    jobs: list[Job]
    started: str  # ISO 8601

    def of(self, state: str) -> list[Job]:
        """The jobs in this state."""
        return [job for job in self.jobs if job.state == state]

    @property
    def is_done(self) -> bool:
        """Whether every job has a record."""
        return len(self.of(DONE)) == len(self.jobs)

    def has_jobs_of(self, other: Index) -> bool:
        """Whether both sweeps have the same jobs, wherever they run and log."""
        ours, theirs = (
            [each.command, *(job.overrides for job in each.jobs)] for each in (self, other)
        )
        return len(ours) == len(theirs) and all(
            None in (one, two) or same_overrides(one, two)
            for one, two in zip(ours, theirs, strict=True)
        )


def same_overrides(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether both make a job compute the same; a resumed job has ``resume`` among its own."""
    return _deciding(one) == _deciding(two)


def _deciding(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides that decide what a job computes, with present keys and in a fixed order."""
    kept = []
    for word in overrides:
        key, *value = word.split("=", 1)
        name = key.lstrip("+~")
        groups = (*NOT_IDENTITY, "saved", "hydra.launcher", "hydra.sweep")
        if not any(name == group or name.startswith(f"{group}.") for group in groups):
            kept.append([RENAMED_KEYS.get(key, key), *value])
    return sorted(kept)


def start_index(folder: Path, index: Index) -> None:
    """Write the index of a sweep that has not begun.

    Raises FileExistsError for a folder that has one, even of a sweep that began this second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SWEEP_NAME).touch(exist_ok=False)
    write_json(folder / SWEEP_NAME, asdict(index))


def read_index(folder: Path, planned: Index | None = None) -> Index | None:
    """The index with what the jobs' folders say now; None if ``folder`` is not a sweep's.

    A damaged index is rebuilt from ``planned``, the index of a command before it begins.
    """
    content = read_json_if_valid(folder / SWEEP_NAME)
    if content is None and planned is not None and (folder / SWEEP_NAME).is_file():
        content = asdict(planned)
    try:
        missing = [Job(int(job["number"]), MISSING, job["overrides"]) for job in content["jobs"]]
        index = Index(content["command"], [], content.get("started", ""))
    except (TypeError, KeyError, ValueError):
        return None
    jobs: dict[int, Job] = {}
    for path in sorted(folder.glob(f"**/{JOB_NAME}")):
        job = read_job(folder, path.parent)
        # Of two the failed one counts: it was refused the folder that has its number.
        if job is not None and (job.number not in jobs or job.state == FAILED):
            jobs[job.number] = job
    jobs = {job.number: job for job in missing} | jobs
    index.jobs = [jobs[number] for number in sorted(jobs)]
    return index


def refresh_index(folder: Path, planned: Index | None = None) -> Index | None:
    """`read_index`, and write what it found."""
    index = read_index(folder, planned)
    if index is not None:
        write_json(folder / SWEEP_NAME, asdict(index))
    return index


def read_job(sweep: Path, path: Path) -> Job | None:
    """What a job's folder says; None if its job.json is damaged."""
    folder = RunFolder(path)
    claim = read_json_if_valid(folder.job) or {}
    try:
        number, overrides = int(claim["number"]), list(claim["overrides"])
    except (TypeError, KeyError, ValueError):
        return None
    job = Job(number, STOPPED, overrides, path.relative_to(sweep).as_posix())
    record, problem = try_record(folder)
    if record is not None:
        job.state = DONE
    elif folder.failed.is_file():
        job.state, job.reason = FAILED, why_failed(path)
    else:
        job.reason = problem
    return job
