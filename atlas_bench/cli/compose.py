"""Hydra's composition and its errors in one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.config.renamed import rename_message
from atlas_bench.naming import nearest
from atlas_bench.sweeps.plan import SweepFacts


def _overrides_of(arguments: Sequence[str]) -> list[str]:
    words = [argument for argument in arguments if not argument.startswith("-")]
    return _without_values_of_flags(arguments, words)


def _parsed(overrides: list[str]) -> list[Override]:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()  # for glob(...) of a group's choices
        return OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_first_line(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "\\'") + "'"


def _without_values_of_flags(arguments: Sequence[str], overrides: list[str]) -> list[str]:
    """Drop the words that belong to flags such as ``--cfg job``."""
    takes_value = {
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
        "--config-dir",
        "-cd",
        "--info",
        "-i",
        "--experimental-rerun",
    }
    values = {
        following
        for flag, following in zip(arguments, arguments[1:], strict=False)
        if flag in takes_value and "=" not in following
    }
    return [word for word in overrides if word not in values]


def _compose(overrides: list[str]) -> DictConfig:
    return _composed(overrides)[0]


def _composed(overrides: list[str]) -> tuple[DictConfig, SweepFacts]:
    """The job's config, resolved, and what Hydra's own says about sweeps."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
            facts = _sweep_facts(config.hydra)
            with open_dict(config):
                del config["hydra"]
            OmegaConf.resolve(config)
            return config, facts
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, overrides)) from error
    finally:
        GlobalHydra.instance().clear()


def _sweep_facts(facts: DictConfig) -> SweepFacts:
    return SweepFacts(
        wanted=facts.mode == RunMode.MULTIRUN,
        folder=Path(facts.sweep.dir),
        launcher=facts.runtime.choices["hydra/launcher"],
        sweeper=facts.runtime.choices["hydra/sweeper"],
        params=dict(facts.sweeper.get("params") or {}),
        trials=facts.sweeper.get("n_trials"),
    )


def _sentence(error: Exception, overrides: list[str]) -> str:
    """One sentence for what Hydra and OmegaConf say in many lines."""
    text = str(error)
    if found := re.search(r"Could not find '([\w/@]+)/([^'/]+)'", text):
        group, choice = found.groups()
        if group.startswith("hydra/"):
            return (
                f"{group}={choice} needs a package of the extra for sweeps; "
                f"pip install 'atlas-bench[sweep]'"
            )
        valid = sorted(path.stem for path in (folder_of("conf") / group).glob("*.yaml"))
        return f"{group}={choice} is not one of {', '.join(valid)}{nearest(choice, valid)}"
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if message := _unknown_key(key, overrides):
            return message
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None) or ""
    first = _first_line(cause)
    match = re.search(r"Error merging override (\S+?)=", text)
    if match or key:
        key = key or match[1]
        value = next((o.split("=", 1)[1] for o in overrides if o.startswith(f"{key}=")), None)
        shown = key if value is None else f"{key}={value}"
        return f"{shown}: {first}"
    return first


def _unknown_key(key: str, overrides: list[str]) -> str | None:
    """What is wrong with a dotted key that the schema of the chosen groups does not have."""
    if not key or key.startswith("hydra") or "/" in key:
        return None
    groups = [path.name for path in folder_of("conf").iterdir() if path.is_dir()]
    chosen = [o for o in overrides if o.split("=", 1)[0].lstrip("+~") in groups]
    try:
        with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
            node = compose("config", chosen)
    except (HydraException, OmegaConfBaseException):
        return None
    walked: list[str] = []
    for part in key.split("."):
        if not OmegaConf.is_dict(node):
            return None
        if part not in node:
            valid = [str(name) for name in node]
            place = f" in {'.'.join(walked)}" if walked else ""
            full = ".".join([*walked, part])
            if renamed := rename_message(full):
                return renamed
            return (
                f"{full} is no key of the config: there is no {part}{place}"
                f"{nearest(part, valid)}; valid are {', '.join(valid)}"
            )
        node = node._get_node(part)
        walked.append(part)
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
