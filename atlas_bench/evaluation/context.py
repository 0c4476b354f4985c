"""What every evaluation needs besides its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.console import Console

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.evaluation.learner import Learner
from atlas_bench.tracking import Tracker


@dataclass
class EvaluationContext:
    """``notes`` collects sentences for the record; ``should_stop`` tells whether a signal came."""

    learner: Learner
    folder: RunFolder
    device: torch.device
    console: Console
    tracker: Tracker
    should_stop: Callable[[], bool]
    notes: list[str] = field(default_factory=list)
