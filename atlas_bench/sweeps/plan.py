"""Where a sweep runs: in a new folder, or in the folder of the sweep that it resumes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import (
    LOCK_NAME,
    SWEEP_NAME,
    RunFolder,
    create_folder,
    write_json,
)
from atlas_bench.artifacts.lock import check_free
from atlas_bench.artifacts.saved_config import read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.resume import Found, difference_from_saved, newest
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import Index, read_index, start_index

HYDRA_CONFIG = "multirun.yaml"  # Hydra's sweeper writes it before it looks at the jobs


@dataclass(frozen=True)
class Plan:
    """A sweep that can start; its index is written."""

    folder: Path
    is_done: bool = False
    created: tuple[Path, ...] = ()  # what a new sweep creates before its first job, inmost first

    def undo(self) -> None:
        """Remove what a new sweep created, as far as nothing else has been put there."""
        for path in self.created:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def plan_sweep(sweep: Index, first_job: RunSettings, folder: Path) -> Plan:
    """The folder for ``sweep``: ``folder`` if it is new, else the one that resume means.

    ``first_job`` has the settings of the first job. Raises ConfigError for a folder that holds
    another sweep, or a sweep that is not to be resumed or runs, and if there is none to resume.
    """
    resume = first_job.resume
    is_given = any(word.startswith("hydra.sweep.dir=") for word in sweep.command)
    if isinstance(resume, str):
        folder = Path(resume)
        if not (folder / SWEEP_NAME).is_file():
            raise ConfigError(f"resume={folder} is not a sweep's folder: it has no {SWEEP_NAME}")
    elif resume and not is_given:
        folder = find_sweep(sweep, first_job)
    elif not (is_given and (folder / SWEEP_NAME).exists()):
        return _start(folder.absolute(), sweep, is_given=is_given)
    folder = folder.absolute()
    if resume is False:
        raise ConfigError(f"{folder} holds a sweep already; resume it with resume=true")
    index = read_index(folder, sweep)
    if difference := _difference(folder, index, sweep, first_job):
        raise ConfigError(f"{folder} was started with another {difference}")
    check_free(folder / LOCK_NAME)
    write_json(folder / SWEEP_NAME, asdict(index))
    return Plan(folder, is_done=index.is_done)


def find_sweep(sweep: Index, first_job: RunSettings) -> Path:
    """The folder of the newest sweep that is the same, as `newest` decides."""
    found = []
    for path in Path(first_job.output_dir).rglob(SWEEP_NAME):
        folder, saved = path.parent, read_index(path.parent)
        index = saved or read_index(folder, sweep)
        # A damaged index is this sweep's if its jobs are; without jobs nothing is lost.
        if index is None or not (saved or any(job.folder for job in index.jobs)):
            continue
        with suppress(ConfigError):  # a damaged config
            if not _difference(folder, index, sweep, first_job):
                found.append(Found(index.started, folder, index.is_done))
    return newest(found, "sweep", first_job.output_dir)


def _difference(folder: Path, index: Index, sweep: Index, first_job: RunSettings) -> str:
    """What makes the sweep in ``folder`` another one; "" if it is the same."""
    if not index.has_jobs_of(sweep):
        return f"command: atlas-bench -m {' '.join(index.command)}"
    config = RunFolder(folder / (index.jobs[0].folder or "")).config
    if not config.is_file() or not config.stat().st_size:
        return ""
    saved = read_config(config)
    if sweep.jobs[0].overrides is None:  # an optimizer drew values, which are no difference
        fixed = {_key(word) for word in sweep.command}
        for key in map(_key, index.jobs[0].overrides or []):
            if key not in fixed:
                _copy(key, first_job, saved.values)
    difference = difference_from_saved(saved, first_job)
    return f"config: {difference}" if difference else ""


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _copy(key: str, settings: Any, values: dict[str, Any]) -> None:
    """Copy one dotted key of settings to the plain values of another config."""
    *groups, name = key.split(".")
    for group in groups:
        settings, values = getattr(settings, group), values[group]
    values[name] = getattr(settings, name)


def _start(folder: Path, sweep: Index, *, is_given: bool) -> Plan:
    """Write the index of a new sweep; the plan knows which paths did not exist before."""
    above = [path for path in folder.parents if not path.exists()]
    existed = folder.exists() and is_given
    if not is_given:
        folder = create_folder(folder)
    inside = [folder / name for name in (LOCK_NAME, HYDRA_CONFIG, SWEEP_NAME)]
    inside = [path for path in inside if not path.exists()]
    try:
        start_index(folder, sweep)
    except FileExistsError:
        raise ConfigError(f"{folder} holds another sweep, which has just started") from None
    return Plan(folder, created=(*inside, *([] if existed else [folder]), *above))
