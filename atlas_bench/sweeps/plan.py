"""Where a sweep runs: in a new folder, or in the folder of the sweep that it resumes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import SWEEP_NAME, RunFolder
from atlas_bench.artifacts.saved_config import read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.resume import difference_from_saved
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import DONE, Index, read_index, start_index

HYDRA_CONFIG = "multirun.yaml"  # Hydra's sweeper writes it before it looks at the jobs


@dataclass(frozen=True)
class Plan:
    """A sweep that can start; its index is written."""

    folder: Path
    created: tuple[Path, ...] = ()  # what a new sweep creates before its first job, inmost first

    def undo(self) -> None:
        """Remove what a new sweep created, as far as nothing else has been put there."""
        for path in self.created:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def plan_sweep(sweep: Index, first_job: RunSettings, folder: Path) -> Plan:
    """The folder for ``sweep``: ``folder`` if it is new, else the one that resume means.

    ``first_job`` has the settings of the first job. Raises ConfigError for a folder that holds
    another sweep, or a sweep that is not to be resumed.
    """
    resume = first_job.resume
    if isinstance(resume, str):
        folder = Path(resume)
        if read_index(folder) is None:
            raise ConfigError(f"resume={folder} is not a sweep's folder: it has no {SWEEP_NAME}")
    elif resume and not any(word.startswith("hydra.sweep.dir=") for word in sweep.command):
        found = find_unfinished(sweep, first_job)
        if found is None:
            print("resume=true: no unfinished sweep of this config was found, starting a new one")
        folder = found or folder
    folder = folder.absolute()
    index = read_index(folder)
    if index is None:
        return _start(folder, sweep)
    if resume is False:
        raise ConfigError(f"{folder} holds a sweep already; resume it with resume=true")
    if difference := _difference(folder, index, sweep, first_job):
        raise ConfigError(f"{folder} was started with another {difference}")
    return Plan(folder)


def find_unfinished(sweep: Index, first_job: RunSettings) -> Path | None:
    """The folder of the newest sweep that is the same and has a job without a record."""
    unfinished = []
    for path in Path(first_job.output_dir).rglob(SWEEP_NAME):
        index = read_index(path.parent)
        if index is None or len(index.of(DONE)) == len(index.jobs):
            continue
        with suppress(ConfigError):  # a damaged config
            if not _difference(path.parent, index, sweep, first_job):
                unfinished.append((index.started, path.parent))
    return max(unfinished)[1] if unfinished else None


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


def _start(folder: Path, sweep: Index) -> Plan:
    """Write the index of a new sweep; the plan knows which paths did not exist before."""
    ours = (folder / HYDRA_CONFIG, folder / SWEEP_NAME, folder, *folder.parents)
    created = tuple(path for path in ours if not path.exists())
    try:
        start_index(folder, sweep)
    except FileExistsError:
        raise ConfigError(
            f"{folder / SWEEP_NAME} is damaged, or belongs to another sweep that just started; "
            f"choose another folder with hydra.sweep.dir=PATH"
        ) from None
    return Plan(folder, created)
