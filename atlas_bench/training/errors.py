"""Errors of training."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.artifacts.checkpoint import CheckpointError, find_checkpoint
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.neural_memory import NeuralMemory


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one sentence."""


def not_finite(
    what: str, model: LanguageModel, tokens: Tensor, *, step: int, folder: RunFolder
) -> TrainingError:
    """The error for a loss or a gradient (``what``) that is not finite at ``step``.

    It names the first parameter that is not finite, or else the first layer whose output for
    ``tokens`` (1, T) is not, and the last checkpoint.
    """
    for name, parameter in model.named_parameters():
        values = parameter.grad if what == "gradient" else parameter
        if values is not None and not torch.isfinite(values).all():
            place = name
            break
    else:
        place = model.first_layer_not_finite(tokens)
    try:
        good = f"the last good checkpoint is {find_checkpoint(folder.path)}"
    except CheckpointError:
        good = "no checkpoint was written yet"
    memories = [module.spec for module in model.modules() if isinstance(module, NeuralMemory)]
    unlimited = any(not spec.bounded_step and spec.optimizer != "muon" for spec in memories)
    # The first step's model has learnt nothing yet, whatever the rate.
    advice = "a lower training.learning_rate" if step > 1 else "shorter training.curriculum.stages"
    limit = " or model.memory.bounded_step=true" if unlimited else ""
    return TrainingError(
        f"step {step}: the {what} is not finite in {place}; {good}; a resumed run keeps its "
        f"settings, so start a new run with {advice}{limit}"
    )
