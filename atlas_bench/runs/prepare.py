"""What a run needs before it can start: device, task, model, and a folder of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.saved_config import write_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict
from atlas_bench.console import plain_console
from atlas_bench.evaluation.context import Run
from atlas_bench.interrupts import StopSignal
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.runs.provenance import git_commit
from atlas_bench.runs.settings import RunSettings, model_name, scale_name
from atlas_bench.tasks.task import ONLINE, Task
from atlas_bench.text.settings import TextSettings
from atlas_bench.tracking import RunLogger
from atlas_bench.training.online import OnlineLearner, build_learner

if TYPE_CHECKING:
    from atlas_bench.evaluation.lm_eval.hub_models import HubModel


def prepare(settings: RunSettings, folder: RunFolder, stop: StopSignal) -> Run:
    """Everything a run needs, in a folder that is its own. Raises ConfigError in one sentence."""
    hardware = settings.hardware
    has_gpu = torch.cuda.is_available()
    if hardware.device == "cuda" and not has_gpu:
        raise ConfigError("hardware.device=cuda, but torch sees no GPU; use auto or cpu")
    device = torch.device("cuda" if has_gpu and hardware.device != "cpu" else "cpu")
    precision = hardware.precision
    if precision == "auto":
        halved = device.type == "cuda" and settings.task.kind != ONLINE
        precision = "bfloat16" if halved else "float32"
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    try:
        text, task, model = _task_and_model(settings, folder, device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _claim(settings, folder)
    console = plain_console()
    console.print(
        f"{model_name(settings)} at {scale_name(settings)}: {count_parameters(model):,} "
        f"parameters, {device.type} {precision}, seed {settings.seed}, run {folder}"
    )
    logger = RunLogger(settings.logger.mode, project=settings.logger.project)
    return Run(
        settings,
        folder,
        device,
        precision,
        text,
        task,
        model,
        console,
        logger,
        stop,
        git_commit(),
    )


def _claim(settings: RunSettings, folder: RunFolder) -> None:
    """Make ``folder`` this run's own; two sweeps of the same second must not share one."""
    if settings.resume is False:
        try:
            folder.config.touch(exist_ok=False)
        except FileExistsError:
            raise ConfigError(
                f"{folder} holds another run; go on with that by resume={folder}, or choose a "
                f"folder with hydra.run.dir=PATH (a sweep: hydra.sweep.dir=PATH)"
            ) from None
    write_config(folder.config, as_dict(settings))


def _task_and_model(
    settings: RunSettings, folder: RunFolder, device: torch.device
) -> tuple[TextSettings, Task, LanguageModel | HubModel | OnlineLearner]:
    """The text with the tokenizer in use, the task, and a model for its vocabulary; a pretrained
    model brings the vocabulary instead, an online task has a network of its own."""
    text, hub = _text(settings), settings.model.hub
    if hub is not None:
        from atlas_bench.evaluation.lm_eval.hub_models import HubModel

        pretrained = HubModel(settings.model, device)
        text = replace(text, tokenizer=str(pretrained.save_tokenizer(folder.tokenizer)))
    task = settings.task.make(
        text, seed=settings.seed, question_every=settings.training.question_every
    )
    if task.kind == ONLINE:
        return text, task, build_learner(task.settings, settings.seed, 1)
    if hub is None:
        model = build_model(
            settings.model,
            settings.scale,
            vocab_size=task.vocab_size,
            seed=settings.seed,
            readout=settings.task.readout,
        )
        return text, task, model.to(device)
    parts = ("instruction", "examples", "post_prompt")
    task = task.for_pretrained({part: getattr(hub, part) for part in parts})
    return text, task, pretrained


def _text(settings: RunSettings) -> TextSettings:
    """The configured text, but with the tokenizer of the checkpoint that is evaluated."""
    saved = None
    if settings.checkpoint is not None:
        saved = checkpoint.tokenizer_file(checkpoint.find_checkpoint(Path(settings.checkpoint)))
    return settings.text if saved is None else replace(settings.text, tokenizer=str(saved))
