"""Where training stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from atlas_bench.artifacts.checkpoint import PROGRESS_NAME, read_progress
from atlas_bench.artifacts.schema import StageEnd
from atlas_bench.config.typed import from_dict


@dataclass
class Progress:
    """The state of the training loop besides model and optimizer; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    sequences: int = 0
    stage: int = 0
    stage_steps: int = 0
    stage_tokens: int = 0
    passed: bool = True  # whether accuracy ended the stage before; False: its share was spent
    accuracy: float = 0.0  # running accuracy on answers
    best_stage: int = -1
    best_accuracy: float = 0.0
    seconds: float = 0.0
    last_loss: float = math.nan
    valid_accuracy: float | None = None
    # Each stage that ended, and the last one, which does not, when it is first passed. None for a
    # curriculum of one stage, and for checkpoints of versions that did not keep it.
    ends: list[StageEnd] | None = None
    ended: bool = False  # whether training.stop_at was reached before the budget was spent


def progress_of(checkpoint: Path) -> Progress:
    """The progress saved with a checkpoint. Raises ConfigError for a file of another shape."""
    return from_dict(Progress, read_progress(checkpoint), f"{checkpoint / PROGRESS_NAME}: ")
