"""What every evaluation needs besides its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.evaluation.learner import Learner
from atlas_bench.evaluation.pieces import Once, each_time
from atlas_bench.tracking import Tracker


@dataclass
class EvaluationContext:
    """``notes`` collects sentences for the record; ``should_stop`` tells whether a signal came.

    ``once(name, work)`` gives what a piece of work gives, and does it only if no earlier, stopped
    evaluation of the same weights and the same ``identity`` (config, code) did.
    """

    learner: Learner
    folder: RunFolder
    device: torch.device
    console: Console
    tracker: Tracker
    should_stop: Callable[[], bool]
    notes: list[str] = field(default_factory=list)
    identity: Mapping[str, Any] = field(default_factory=dict)
    once: Once = each_time
