"""The config of a run as its folder keeps it: the one way to write, read and upgrade it.

Evaluation, lm-eval, resume and sweeps all read it here. A key that gets a new name is upgraded
here; a key that is new gets the schema's default from whoever knows the schema.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from atlas_bench.artifacts.folder import (
    CONFIG_NAME,
    UnreadableFile,
    find_upwards,
    read_json,
    write_json,
)
from atlas_bench.config.renamed import RENAMED_KEYS
from atlas_bench.config.typed import from_dict

GROUPS = ("model", "scale", "task", "text", "training", "hardware", "logger", "evaluations")
FORMAT = 2  # of config.json; a file without a format has format 1
# In format 1 the stages of all tasks had a length and a noise share, tasks that train nothing had
# stages too, and two tasks had a placeholder for the tokens of a step.
_STAGE_KEYS_DROPPED = {"mqar": ("length", "noise"), "mad": ("length", "noise"), "lm": ("noise",)}
_WITHOUT_STAGES = ("commonsense", "recall", "learnability")
_WITHOUT_BATCH_TOKENS = ("mqar", "mad")

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class SavedConfig:
    """``values`` are upgraded, but neither complete nor checked."""

    file: Path
    values: dict[str, Any]

    def settings(self, group: str, kind: type[Settings]) -> Settings:
        """One group as the dataclass ``kind``.

        Raises ConfigError in one sentence that names the file and the key.
        """
        if group not in self.values:
            raise UnreadableFile(
                f"{self.file} has no {group}, so it is not the config of a run; a pretrained model "
                f"is evaluated with mode=eval model=hf model.name=FOLDER"
            )
        return from_dict(kind, self.values.get(group), f"{self.file}: {group}.")


def write_config(file: Path, config: dict[str, Any]) -> None:
    """Write a run's config in the present format."""
    write_json(file, {"format": FORMAT, **config})


def read_config(file: Path) -> SavedConfig:
    """The upgraded config in ``file``. Raises UnreadableFile in one sentence."""
    content = read_json(file)
    version = content.get("format", 1)
    if version not in range(1, FORMAT + 1):
        raise UnreadableFile(
            f"{file} has format {version}, but this version of atlas-bench reads 1 to {FORMAT}"
        )
    for key in GROUPS:
        if not isinstance(content.get(key), (dict, NoneType)):
            raise UnreadableFile(f"{file}: {key} is not a JSON object")
    if "${" in json.dumps(content):  # a run saves what it was resolved to
        raise UnreadableFile(f"{file} has ${{...}} in a value, which no run saves")
    try:
        return SavedConfig(file, upgrade(content))
    except (TypeError, AttributeError) as error:  # below a group, a key has another shape
        raise UnreadableFile(f"{file} is not the config of a run: {error}") from error


def find_config(checkpoint: Path) -> SavedConfig | None:
    """The config of the run that ``checkpoint`` belongs to; None for a checkpoint without one.

    Raises UnreadableFile in one sentence.
    """
    file = find_upwards(checkpoint, CONFIG_NAME)
    return None if file is None else read_config(file)


def training_of_checkpoint(checkpoint: str | None) -> dict[str, Any]:
    """The part of an evaluation's record that comes from the config of its checkpoint.

    ``seed`` and ``training`` replace the evaluation's own, which do not affect its numbers;
    ``trained_on`` is the task and the text. Empty for a checkpoint without a config.
    """
    saved = None if checkpoint is None else find_config(Path(checkpoint))
    if saved is None:
        return {}
    kept = {key: saved.values[key] for key in ("seed", "training") if key in saved.values}
    return kept | {"trained_on": {key: saved.values.get(key) for key in ("task", "text")}}


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the keys of the present format, without ``format``."""
    config = {key: copy.deepcopy(value) for key, value in config.items() if key != "format"}
    for old, new in RENAMED_KEYS.items():
        *path, old_name = old.split(".")
        new_name = new.rpartition(".")[2]
        for parent in _find(config, path):
            if old_name in parent:
                parent.setdefault(new_name, parent.pop(old_name))
    _drop_placeholders(config)
    return config


def _drop_placeholders(config: dict[str, Any]) -> None:
    """Remove keys of the training that the task it trained on does not have."""
    source = config.get("trained_on", config)  # an evaluation has its checkpoint's training
    (task,) = list(_find(source, ["task"])) or [{}]
    name = task.get("name")
    for stage in _find(config, ["training", "curriculum", "stages[]"]):
        for key in _STAGE_KEYS_DROPPED.get(name, ()):
            stage.pop(key, None)
    for curriculum in _find(config, ["training", "curriculum"]):
        if name in _WITHOUT_STAGES:
            curriculum["stages"] = None
    for training in _find(config, ["training"]):
        if name in _WITHOUT_BATCH_TOKENS:
            training.pop("batch_tokens", None)


def _find(node: Any, path: list[str]) -> Iterator[dict[str, Any]]:
    """The mappings at ``path``; a part that ends in [] stands for every entry of a list."""
    if not isinstance(node, dict):
        return
    if not path:
        yield node
        return
    name, is_list = path[0].removesuffix("[]"), path[0].endswith("[]")
    below = node.get(name)
    for entry in below if is_list and isinstance(below, list) else [below]:
        yield from _find(entry, path[1:])
