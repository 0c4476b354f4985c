"""Which run ``resume`` means."""

from __future__ import annotations

import json
from pathlib import Path

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
        if not (folder / "config.json").is_file():
            raise ConfigError(f"resume={folder} is no run's folder: it has no config.json")
        theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if identity(theirs) != mine:
            raise ConfigError(
                f"resume={folder} was started with another config: "
                f"{first_difference(theirs, as_dict(settings))}"
            )
        return folder
    unfinished = []
    for path in Path(settings.output_dir).rglob("config.json"):
        folder = path.parent
        if (folder / "record.json").exists() or not (folder / "checkpoints/last.json").exists():
            continue
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            continue
        if identity(theirs) == mine:
            unfinished.append((path.stat().st_mtime, folder))
    return max(unfinished)[1] if unfinished else None
