"""What all parts of one evaluation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.interrupts import StopSignal
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import Task
from atlas_bench.text.settings import TextSettings
from atlas_bench.tracking import RunLogger
from atlas_bench.training.online import OnlineLearner

if TYPE_CHECKING:
    from atlas_bench.evaluation.lm_eval.hub_models import HubModel


@dataclass
class Run:
    """What all parts of one run share."""

    settings: RunSettings
    folder: RunFolder
    device: torch.device
    precision: str
    text: TextSettings  # with the tokenizer in use, which may be a checkpoint's
    task: Task
    model: LanguageModel | HubModel | OnlineLearner  # of an online task one of its networks
    console: Console
    logger: RunLogger
    stop: StopSignal
    commit: str | None  # of the code that runs, read before anything can change it
