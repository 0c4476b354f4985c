"""The run that ``resume`` means, and whether it was started with the same config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from atlas_bench.artifacts.folder import CONFIG_NAME, LOCK_NAME, RunFolder
from atlas_bench.artifacts.lock import check_free, holder
from atlas_bench.artifacts.records import find_records, try_record
from atlas_bench.artifacts.saved_config import SavedConfig, read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import Difference, first_difference
from atlas_bench.config.typed import from_dict
from atlas_bench.runs.settings import RunSettings
from atlas_bench.training.settings import with_stages


class Found(NamedTuple):
    """A run or a sweep of the config that is to be resumed."""

    started: float | str
    folder: Path
    is_done: bool


def newest(found: Sequence[Found], kind: str, output_dir: str) -> Path:
    """The newest of ``found`` that is unfinished and that no process works on; if there is none,
    the newest finished one. ``kind`` is a run or a sweep.

    Raises ConfigError if nothing was found, AlreadyRunning if a process works on what is left.
    """
    if not found:
        raise ConfigError(
            f"resume=true: {output_dir} has no {kind} of this config; without resume a new one "
            f"starts"
        )
    done = [each for each in found if each.is_done]
    unfinished = [each for each in found if not each.is_done]
    free = [each for each in unfinished if holder(each.folder / LOCK_NAME) is None]
    if unfinished and not free:
        check_free(max(unfinished).folder / LOCK_NAME)
    return max(free or done).folder


def folder_to_resume(settings: RunSettings, given: Path | None = None) -> Path:
    """The run folder that ``resume`` means: its own path, else ``given`` by hydra.run.dir, which
    may be new, else that of the newest run of the same config, as `newest` decides.

    Raises ConfigError if the folder cannot be resumed.
    """
    if isinstance(settings.resume, str):
        given = Path(settings.resume)
        if not (given / CONFIG_NAME).is_file():
            raise ConfigError(f"resume={given} is not a run's folder: it has no {CONFIG_NAME}")
    if given is not None:
        file = given / CONFIG_NAME
        if file.is_file() and (difference := difference_from_saved(read_config(file), settings)):
            raise ConfigError(
                f"{given} was started with another config: {difference}; leave resume out to "
                f"start a new run"
            )
        return given
    found = []
    places = find_records(settings.output_dir) if Path(settings.output_dir).is_dir() else ([], [])
    for folder in map(RunFolder, (*(path.parent for path in places[0]), *places[1])):
        try:
            if not difference_from_saved(read_config(folder.config), settings):
                is_done = try_record(folder)[0] is not None
                found.append(Found(folder.config.stat().st_mtime, folder.path, is_done))
        except ConfigError:  # no config, a damaged one, or one of another version
            continue
    return newest(found, "run", settings.output_dir)


def check_new(folder: RunFolder) -> None:
    """Raise ConfigError if ``folder`` holds a run."""
    if folder.config.exists():
        raise ConfigError(
            f"{folder} holds another run; continue that run with resume={folder}, or choose "
            f"a folder with hydra.run.dir=PATH (a sweep: hydra.sweep.dir=PATH)"
        )


def difference_from_saved(saved: SavedConfig, settings: RunSettings) -> Difference | None:
    """The first key of a saved config that makes its run another than the run of ``settings``.

    Keys that are newer than the file have the schema's defaults. Raises ConfigError for a saved key
    that the schema does not have.
    """
    given = asdict(settings)
    # A task of another name has other keys.
    if difference := first_difference(_task_names(saved.values), _task_names(given)):
        return difference._replace(key=f"{difference.key}.name")
    evaluations = {name: type(task)() for name, task in settings.evaluations.items()}
    schema = RunSettings(task=type(settings.task)(), evaluations=evaluations)
    completed = from_dict(schema, saved.values, f"{saved.file}: ")
    try:
        completed.training = with_stages(completed.training, settings.task)
    except ValueError as error:
        raise ConfigError(f"{saved.file}: {error}") from error
    return first_difference(asdict(completed), given)


def _task_names(config: dict[str, Any]) -> dict[str, Any]:
    """The name of each task by its dotted key."""
    evaluations = config.get("evaluations")
    tasks = {"task": config.get("task")}
    if isinstance(evaluations, dict):
        tasks |= {f"evaluations.{name}": task for name, task in evaluations.items()}
    return {key: task.get("name") for key, task in tasks.items() if isinstance(task, dict)}
