"""Compose the config of a job with Hydra; every mistake ends in one sentence."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from atlas_bench.artifacts.saved_config import find_config
from atlas_bench.cli.shorthand import annotations
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.config.renamed import rename_message
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.naming import nearest
from atlas_bench.runs.checks import to_settings
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.registry import TASKS
from atlas_bench.tasks.task import TaskSettings
from atlas_bench.text.settings import TextSettings

# OmegaConf fails with the last three for a key below a null group, Hydra for a group set to null.
COMPOSE_ERRORS = (
    HydraException, OmegaConfBaseException, AssertionError, AttributeError, ValueError,
)  # fmt: skip


TUNED = "tuned"  # the group of what validation chose for a model and scale


def register_schema() -> None:
    """Make the schema known to Hydra: ``schema``, and ``NAME_schema`` for each task.

    A task without a file in conf/task is a choice too, with the defaults of its settings.
    """
    _store_schema(tuple(TASKS.items()))


@lru_cache(maxsize=1)  # a quarter of the time of composing a config
def _store_schema(tasks: tuple[tuple[str, type[TaskSettings]], ...]) -> None:
    store = ConfigStore.instance()
    store.store(name="schema", node=RunSettings)
    with_file = {path.stem for path in (folder_of("conf") / "task").glob("*.yaml")}
    for name, task_settings in tasks:
        store.store(name=f"{name}_schema", node=task_settings)  # in no group, so not a choice
        if name not in with_file:
            store.store(group="task", name=name, node=task_settings)


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra with the configs of conf/ and the schema, for as long as the block lasts."""
    GlobalHydra.instance().clear()
    register_schema()
    with hydra.initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them. Raises ConfigError for wrong syntax."""
    try:
        with _hydra() as loader:  # glob(...) needs it to look up a group's choices
            parser = OverridesParser.create(config_loader=loader)
            return [_parse(parser, word) for word in words]
    except HydraException as error:
        raise ConfigError(first_line(error)) from error


def _parse(parser: OverridesParser, word: str) -> Override:
    """One override. For wrong syntax the error says which quotes make a text of the value."""
    try:
        return parser.parse_overrides([word])[0]  # unlike parse_override, with the choices
    except HydraException as error:
        key, _, value = word.partition("=")
        quoted = f"{key}='{os.path.expanduser(value)}'"
        try:
            parser.parse_overrides([quoted])
        except HydraException:
            raise ConfigError(f"{word} is not an override; write key=value") from error
        raise ConfigError(
            f'{word} cannot be parsed; text with special characters needs both quotes, "{quoted}"'
        ) from error


def use_saved_run(overrides: Sequence[Override]) -> list[str]:
    """The overrides that take the config of the evaluated checkpoint's run.

    They take its model and scale, and unless the command chooses another task or text, its task and
    text. There are none if the command names no checkpoint or a list of them, or if no run's config
    is found around it. Keys of the command itself replace saved ones. Raises ConfigError if the
    command names another model or scale than the checkpoint's.
    """
    given = {each.key_or_group: each for each in overrides if each.package is None}
    checkpoint = given.get("checkpoint")
    if checkpoint is None or checkpoint.is_sweep_override():
        return []
    config = find_config(Path(str(checkpoint.value())))
    if config is None:
        return []
    saved = {
        "model": asdict(config.settings("model", ModelSettings)),
        "scale": asdict(config.settings("scale", ScaleSettings)),
    }
    for group, settings in saved.items():
        if group in given and given[group].value() != settings["name"]:
            raise ConfigError(
                f"{given[group].input_line} is not what checkpoint={checkpoint.value()} was "
                f"trained as, {group}={settings['name']}; leave {group} out"
            )
    added = ["+saved=run"]
    task = config.values.get("task") or {}
    if "task" not in given and "name" in task:
        if task["name"] not in (valid := choices_of("task")):
            raise ConfigError(
                f"{config.file}: task.name={task['name']} is not one of {', '.join(valid)}"
            )
        added.append(f"task={task['name']}")
        saved["task"] = task
    same_task = "task" not in given or given["task"].value() == task.get("name")
    if same_task and "text" not in given and config.values.get("text"):
        saved["text"] = asdict(config.settings("text", TextSettings))
    ConfigStore.instance().store(group="saved", name="run", node=saved, package="_global_")
    return added


def compose(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """The resolved config of one job, and Hydra's own part of it, ``hydra``.

    Raises ConfigError, one sentence that names the key, what is wrong and what would be right.
    """
    for word in overrides:  # optional in conf/config.yaml, where Hydra passes over unknown ones
        group, _, choice = word.partition("=")
        if group == TUNED and choice not in choices_of(TUNED):
            raise ConfigError(unknown_choice(TUNED, choice))
    try:
        with _hydra():
            config = hydra.compose("config", list(overrides), return_hydra_config=True)
            hydra_config = config.hydra
            with open_dict(config):
                del config["hydra"]
            OmegaConf.resolve(config)
            return config, hydra_config
    except COMPOSE_ERRORS as error:
        raise ConfigError(one_sentence(error, overrides)) from error


def with_values(config: DictConfig, words: Sequence[str]) -> DictConfig:
    """A composed config with overrides of values, which is quicker than to compose it again."""
    changed = copy.deepcopy(config)
    try:
        for override in parse_overrides(words):
            OmegaConf.update(changed, override.key_or_group, override.value(), force_add=True)
    except COMPOSE_ERRORS as error:
        raise ConfigError(one_sentence(error, words)) from error
    return changed


def compose_settings(overrides: Sequence[str]) -> RunSettings:
    """The checked settings of one job. Raises ConfigError in one sentence."""
    return to_settings(compose(overrides)[0])


# errors ------------------------------------------------------------------------------------


def one_sentence(error: Exception, overrides: Sequence[str]) -> str:
    """One sentence for what Hydra and OmegaConf say in many lines."""
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return _below_null(overrides) or first_line(error)
    if found := re.search(r"Could not find '([\w/@]+)/([^'/]+)'", str(error)):
        return unknown_choice(*found.groups())
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None) or ""
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return _unknown_key(key, [str(name) for name in cause.parent_node if name != "hydra"])
    if match := re.search(r"Error merging override (\S+?)=", str(error)):
        key = key or match[1]
    if not key:
        return first_line(cause)
    value = next((word for word in overrides if word.startswith(f"{key}=")), key)
    return f"{value}: {first_line(cause)}"


def unknown_choice(group: str, choice: str) -> str:
    """A sentence on a choice that a group does not have."""
    if group.startswith("hydra/"):
        return (
            f"{group}={choice} needs a package of the extra for sweeps; in a clone, "
            f"pip install -e '.[sweep]'"
        )
    valid = choices_of(group)
    return f"{group}={choice} is not one of {', '.join(valid)}{nearest(choice, valid)}"


def choices_of(group: str) -> list[str]:
    """The names that ``group=NAME`` accepts."""
    with _hydra() as loader:
        return loader.get_group_options(group)


def _unknown_key(key: str, valid: Sequence[str]) -> str:
    if renamed := rename_message(key):
        return renamed
    name = key.rpartition(".")[2]
    full = [each for each in annotations() if each.endswith(f".{key}")]
    full.sort(key=lambda each: each.startswith("task."))  # tasks have the most keys
    hint = f" (did you mean {' or '.join(full)}?)" if full else nearest(name, valid)
    names = f"; valid are {', '.join(valid)}" if valid else ""
    return f"{key} is not a key of the config{hint}{names}"


def _below_null(overrides: Sequence[str]) -> str | None:
    """A sentence on the first override that sets a key of a group that is null."""
    schema = OmegaConf.structured(RunSettings)
    for word in overrides:
        key = word.lstrip("+").replace("={", ".{").split("=")[0]
        for dot in re.finditer(r"\.", key):
            group = key[: dot.start()]
            if OmegaConf.select(schema, group, default="") is None:
                return f"{word}: {group} is null here and has no keys"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error that has one, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
