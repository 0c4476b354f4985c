"""The run that ``resume`` means, and whether it was started with the same config."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import CONFIG_NAME, RunFolder
from atlas_bench.artifacts.saved_config import SavedConfig, read_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict, first_difference
from atlas_bench.config.typed import from_dict
from atlas_bench.runs.settings import RunSettings
from atlas_bench.training.settings import TrainingSettings, with_stages


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
        if folder.record.exists() or not folder.last_checkpoint.exists():
            continue
        try:
            if not difference_from_saved(read_config(file), settings):
                unfinished.append((file.stat().st_mtime, folder.path))
        except ConfigError:  # a damaged file, or a run of another version
            continue
    return max(unfinished)[1] if unfinished else None


def difference_from_saved(saved: SavedConfig, settings: RunSettings) -> str:
    """A sentence on the first key of a saved config that makes its run another than the run of
    ``settings``; "" if they are the same run.

    Raises ConfigError for a saved key that the schema does not have.
    """
    return first_difference(_completed(saved, settings), as_dict(settings))


def _completed(saved: SavedConfig, settings: RunSettings) -> dict[str, Any]:
    """A saved config with the schema's defaults for keys that are newer than the file."""
    completed = as_dict(RunSettings())
    for key, value in saved.values.items():
        if key not in completed:
            raise ConfigError(f"{saved.file}: {key} is not a key of the config")
        completed[key] = _with_defaults(value, getattr(settings, key), f"{saved.file}: {key}")
    if completed["task"]["name"] == settings.task.name:  # else its stages are of another class
        training = from_dict(TrainingSettings, completed["training"], f"{saved.file}: training")
        try:
            completed["training"] = as_dict(with_stages(training, settings.task))
        except ValueError as error:
            raise ConfigError(f"{saved.file}: {error}") from error
    return completed


def _with_defaults(saved: Any, like: Any, where: str) -> Any:
    """A group, or a mapping of groups, completed by the schema of ``like``.

    A group that has another name has another schema, too, and is left as it is.
    """
    if not isinstance(saved, dict):
        return saved
    if isinstance(like, dict):
        return {
            name: _with_defaults(group, like.get(name), f"{where}.{name}")
            for name, group in saved.items()
        }
    if not is_dataclass(like) or saved.get("name") != getattr(like, "name", None):
        return saved
    return as_dict(from_dict(type(like), saved, where))
