"""The command `atlas-bench`: compose, validate, hand over to run.py.

The config is composed once before Hydra starts, so that every mistake in it ends in one sentence
and exit code 2, with nothing created and nothing overwritten.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atlas_bench.checkpoint_config import overrides_of_checkpoint
from atlas_bench.config import (
    ConfigError,
    check_machine,
    folder_of,
    register_schema,
    to_settings,
)
from atlas_bench.naming import nearest

BAD_INPUT = 2


def main() -> None:
    """Console script. Exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 stopped."""
    register_schema()
    arguments = sys.argv[1:]
    if not any(argument in ("--help", "-h", "--hydra-help", "--version") for argument in arguments):
        try:
            arguments += _checked(arguments)
        except ConfigError as error:
            print(f"atlas-bench: {error}", file=sys.stderr)
            sys.exit(BAD_INPUT)
    if "--version" in arguments:
        from atlas_bench import __version__

        print(f"atlas-bench {__version__}")
        return
    sys.argv[1:] = arguments
    _job()


@hydra.main(config_path=str(folder_of("conf")), config_name="config", version_base="1.3")
def _job(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    from atlas_bench.run import RunError, Stopped, describe, execute

    try:
        settings = to_settings(config)
        if settings.mode == "describe":
            print(describe(settings))
            return
        execute(settings, Path(HydraConfig.get().runtime.output_dir))
    except ConfigError as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except RunError as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        print(f"atlas-bench: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal)


def _checked(arguments: Sequence[str]) -> list[str]:
    """Raise ConfigError for bad overrides; those that `checkpoint` and `resume` ask for besides."""
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    overrides = _without_values_of_flags(arguments, overrides)
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word} is no override; write key=value, for instance model=atlas")
    parsed = _parsed(overrides)
    added = overrides_of_checkpoint(parsed, _compose)
    parsed += _parsed(added)
    # A sweep is checked with the first value of each list and, where no launcher sends its jobs
    # elsewhere, with all its models; every job checks its own again.
    config = _compose(_one_job(parsed))
    if any(argument in ("--cfg", "-c") for argument in arguments):
        return added
    settings = to_settings(config)
    if not any(override.key_or_group == "hydra/launcher" for override in parsed):
        check_machine(settings)
        for model in _swept_models(parsed)[1:]:
            check_machine(to_settings(_compose(_one_job(parsed, model))))
    if settings.mode == "describe":  # leaves nothing behind
        return [*added, "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]
    if settings.resume is False or any(override.is_sweep_override() for override in parsed):
        return added
    from atlas_bench.resume import folder_to_resume

    folder = folder_to_resume(settings)
    if folder is None:
        print("resume=true: no unfinished run of this config was found, starting a new one")
        return added
    return [*added, f"hydra.run.dir={_quoted(str(folder))}"]


def _parsed(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_first_line(error)) from error


def _one_job(parsed: Sequence[Override], model: str | None = None) -> list[str]:
    """The overrides of a sweep's first job, or of the first with one of its models."""
    single = []
    for override in parsed:
        key, chosen = override.get_key_element(), None
        if override.is_sweep_override():
            swept = model is not None and override.key_or_group == "model"
            chosen = model if swept else next(iter(override.sweep_string_iterator()))
        single.append(override.input_line if chosen is None else f"{key}={chosen}")
    return single


def _swept_models(parsed: Sequence[Override]) -> list[str]:
    return [
        str(model)
        for override in parsed
        if override.key_or_group == "model" and override.is_sweep_override()
        for model in override.sweep_string_iterator()
    ]


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
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
            config = compose("config", overrides)
            OmegaConf.resolve(config)
            return config
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, overrides)) from error
    finally:
        GlobalHydra.instance().clear()


def _sentence(error: Exception, overrides: list[str]) -> str:
    """One sentence for what Hydra and OmegaConf say in many lines."""
    text = str(error)
    if found := re.search(r"Could not find '([\w/@]+)/([^'/]+)'", text):
        group, choice = found.groups()
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
