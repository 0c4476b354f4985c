"""What a checkpoint was trained as: `mode=eval checkpoint=PATH` needs no model or scale with it,
and its record tells the seed and the training that the model came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas_bench.artifacts.checkpoint import find_upwards
from atlas_bench.artifacts.folder import CONFIG_NAME, read_json_if_valid

GROUPS = ("model", "scale")


def training_of_checkpoint(checkpoint: str | None) -> dict[str, Any]:
    """What an evaluation's record takes from the config that its checkpoint was trained with.

    ``seed`` and ``training`` stand in place of the evaluation's own, which decide nothing;
    ``trained_on`` is the task and the text. {} where no run's config is around the checkpoint.
    """
    saved = None if checkpoint is None else _config_around(Path(checkpoint))
    if saved is None:
        return {}
    kept = {key: saved[key] for key in ("seed", "training") if key in saved}
    return kept | {"trained_on": {key: saved.get(key) for key in ("task", "text")}}


def _config_around(path: Path) -> dict[str, Any] | None:
    """The config.json of the run that ``path`` is, or that it is a checkpoint of."""
    file = find_upwards(path, CONFIG_NAME)
    found = {} if file is None else read_json_if_valid(file) or {}
    return found if all(isinstance(found.get(group), dict) for group in GROUPS) else None
