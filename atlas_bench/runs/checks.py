"""Checks of a whole config: its own bounds, and combinations of groups that cannot run."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from atlas_bench.config.bounds import check_bounds
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import first_difference
from atlas_bench.models.checks import check_settings
from atlas_bench.models.mixer import unavailable_reason
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import ONLINE
from atlas_bench.text.settings import check_text
from atlas_bench.training.settings import TrainingSettings, check_training, with_stages

# The groups of a task that is learnt while it is measured: no model, no scale, no training.
ONLINE_GROUPS = {
    "model": asdict(ModelSettings(name="none", mixers=[])),
    "scale": asdict(ScaleSettings(name="none")),
    "training": asdict(TrainingSettings(tokens=0)),
}


def to_settings(config: DictConfig) -> RunSettings:
    """The composed config as checked dataclasses.

    Raises ConfigError, one sentence that names the key, what is wrong and what would be right.
    """
    try:
        settings = OmegaConf.to_object(config)
        settings.training = with_stages(_with_trials(settings), settings.task)
        check(settings)
    except ConfigError:
        raise
    except ValueError as error:
        message = str(error)
        if message.startswith("memory."):
            message = "model." + message
        raise ConfigError(message.replace(" memory.", " model.memory.")) from error
    return settings


def _with_trials(settings: RunSettings) -> TrainingSettings:
    """The training settings, without trials if the run departs from what they chose."""
    training = settings.training
    if all(attrgetter(key)(settings) == value for key, value in training.chosen.items()):
        return training
    return replace(training, trials=0, chosen={})


def check(settings: RunSettings) -> None:
    """Raise ValueError in one sentence for a value or combination that cannot be run."""
    check_bounds(settings)
    check_bounds(settings.hardware, "hardware.")
    check_bounds(settings.logger, "logger.")
    if not isinstance(settings.resume, (bool, str)):
        raise ConfigError(f"resume={settings.resume} must be true, false or a run's folder")
    if settings.task.kind == ONLINE:
        _check_online(settings)
    else:
        _check_model(settings)
    check_text(settings.text)
    settings.task.check(settings.text)
    for name, task in settings.evaluations.items():
        try:
            task.check(settings.text)
        except ValueError as error:
            raise ConfigError(str(error).replace("task.", f"evaluations.{name}.", 1)) from error
    if settings.validation_samples:
        settings.task.for_validation(settings.validation_samples)


def _check_model(settings: RunSettings) -> None:
    """Raise ValueError for a model, a training and tasks that do not fit together."""
    for name, task in settings.evaluations.items():
        if task.kind == ONLINE:
            raise ConfigError(
                f"evaluations.{name}: task={task.name} is learnt while it is measured and does not "
                f"use a trained model; run it by itself"
            )
    if settings.model.hub is not None and settings.model.name == "hf":
        raise ConfigError(
            "model=hf needs model.name=REPOSITORY, a repository of the hub or a local folder"
        )
    if settings.model.hub is not None and (settings.mode, settings.checkpoint) != ("eval", None):
        raise ConfigError(
            f"model={settings.model.name} is pretrained; use mode=eval without checkpoint"
        )
    given = settings.checkpoint is not None or settings.model.hub is not None
    if settings.mode == "eval" and not given:
        raise ConfigError("mode=eval needs checkpoint=PATH, a run's folder or a checkpoint folder")
    if settings.mode in ("train", "train_eval") and settings.task.stage is None:
        raise ConfigError(
            f"task={settings.task.name} has nothing to train on; use mode=eval checkpoint=PATH"
        )
    if settings.mode != "eval" and settings.checkpoint is not None:
        raise ConfigError("checkpoint=PATH is for mode=eval; resume=PATH continues a training")
    if settings.validation_samples and settings.model.hub is not None:
        raise ConfigError(
            f"validation_samples={settings.validation_samples} chooses between trained models, "
            f"but model={settings.model.name} is pretrained; use validation_samples=0"
        )
    check_settings(settings.model, settings.scale)
    check_training(settings.training)


def _check_online(settings: RunSettings) -> None:
    """Raise ConfigError for settings that a task learnt while it is measured does not use."""
    name = settings.task.name
    if settings.mode in ("train", "eval"):
        raise ConfigError(
            f"mode={settings.mode}: task={name} is learnt while it is measured and leaves no "
            f"model; use mode=train_eval"
        )
    given = {"checkpoint": settings.checkpoint, "evaluations": settings.evaluations}
    if settings.hardware.precision == "bfloat16":
        given["hardware.precision"] = "bfloat16"
    for key, value in given.items():
        if value:
            shown = ",".join(value) if isinstance(value, dict) else value
            raise ConfigError(f"{key}={shown} does not apply to task={name}; leave it out")
    given = {group: asdict(getattr(settings, group)) for group in ONLINE_GROUPS}
    if difference := first_difference(ONLINE_GROUPS, given):
        key, group = difference.key.removesuffix(".name"), difference.key.partition(".")[0]
        raise ConfigError(
            f"{key}={difference.now} does not apply to task={name}, which trains only the network "
            f"of task.learner; leave {group} out"
        )


def check_machine(settings: RunSettings) -> None:
    """Raise ConfigError in one sentence if this machine or its launcher cannot run the settings.

    It is separate from `check` because a sweep's jobs may run on other machines.
    """
    processes = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
    if processes != "1":
        raise ConfigError(
            f"torchrun started {processes} processes, but a run trains in one; use "
            f"--nproc-per-node=1 --nnodes=1, or hardware=slurm or ray for several runs at once"
        )
    if settings.model.hub is not None:
        _check_hub(settings.model.name)
    reason = unavailable_reason(settings.model, settings.hardware.device)
    if reason is not None:
        raise ConfigError(f"model={settings.model.name} {reason}")


def _check_hub(name: str) -> None:
    missing = [each for each in ("transformers", "accelerate") if find_spec(each) is None]
    if missing:
        raise ConfigError(
            f"model.name={name} needs {' and '.join(missing)}; in a clone, pip install -e '.[hf]'"
        )
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ConfigError(f"model.name={name}: there is no such folder")
