"""The run that ``resume`` means, and whether it was started with the same config."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import CONFIG_NAME, EVALUATED_NAME, RunFolder
from atlas_bench.artifacts.saved_config import SavedConfig, read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import Difference, first_difference
from atlas_bench.config.typed import from_dict
from atlas_bench.runs.settings import RunSettings
from atlas_bench.training.settings import with_stages


def folder_to_resume(settings: RunSettings) -> Path | None:
    """The run folder that ``resume`` means; None if ``resume=true`` finds no unfinished run.

    Raises ConfigError if a given folder cannot be resumed.
    """
    if isinstance(settings.resume, str):
        folder = RunFolder(Path(settings.resume))
        if not folder.config.is_file():
            raise ConfigError(f"resume={folder} is not a run's folder: it has no {CONFIG_NAME}")
        if difference := difference_from_saved(read_config(folder.config), settings):
            raise ConfigError(f"resume={folder} was started with another config: {difference}")
        return folder.path
    unfinished = []
    for file in Path(settings.output_dir).rglob(CONFIG_NAME):
        folder = RunFolder(file.parent)
        begun = folder.can_resume or any(folder.path.rglob(EVALUATED_NAME))
        if folder.record.exists() or not begun:
            continue
        try:
            if not difference_from_saved(read_config(file), settings):
                unfinished.append((file.stat().st_mtime, folder.path))
        except ConfigError:  # a damaged file, or a run of another version
            continue
    return max(unfinished)[1] if unfinished else None


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
    evaluations = config.get("evaluations", {})
    tasks = {"task": config.get("task")}
    tasks |= {f"evaluations.{name}": task for name, task in evaluations.items()}
    return {key: task.get("name") for key, task in tasks.items() if isinstance(task, dict)}
