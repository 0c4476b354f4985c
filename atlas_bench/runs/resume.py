"""Which run ``resume`` means."""

from __future__ import annotations

from pathlib import Path

from atlas_bench.artifacts.folder import CONFIG_NAME, RunFolder, read_json, read_json_if_valid
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict, first_difference, identity
from atlas_bench.runs.settings import RunSettings


def folder_to_resume(settings: RunSettings) -> Path | None:
    """The run folder that ``resume`` means; None where ``resume=true`` finds no unfinished run.

    Raises ConfigError where a given folder cannot be gone on with.
    """
    mine = identity(as_dict(settings))
    if isinstance(settings.resume, str):
        folder = Path(settings.resume)
        if not RunFolder(folder).config.is_file():
            raise ConfigError(f"resume={folder} is not a run's folder: it has no {CONFIG_NAME}")
        theirs = read_json(RunFolder(folder).config)
        if identity(theirs) != mine:
            raise ConfigError(
                f"resume={folder} was started with another config: "
                f"{first_difference(theirs, as_dict(settings))}"
            )
        return folder
    unfinished = []
    for path in Path(settings.output_dir).rglob(CONFIG_NAME):
        folder = RunFolder(path.parent)
        if folder.record.exists() or not folder.last_checkpoint.exists():
            continue
        theirs = read_json_if_valid(path)
        if theirs is not None and identity(theirs) == mine:
            unfinished.append((path.stat().st_mtime, folder.path))
    return max(unfinished)[1] if unfinished else None
