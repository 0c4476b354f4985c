"""Trackers: where a run's numbers go besides its record, which never depends on them.

To add one, write a file with a `Tracker` and add a line to TRACKERS; ``logger.name`` chooses it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

TRACKERS = {
    "none": "atlas_bench.tracking:NoTracker",
    "wandb": "atlas_bench.tracking.wandb_tracker:WandbTracker",
}


class Tracker:
    """Logs one run. No method raises: a tracker that fails must not end a run."""

    def __init__(self, mode: str = "", project: str = "") -> None:
        """``mode`` and ``project`` are those of the config's logger."""
        self.mode, self.project = mode, project

    def start(
        self,
        config: Mapping[str, Any],
        name: str,
        directory: Path,
        *,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """Begin a run whose files go to ``directory``, the run's folder."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log metrics of a training step; steps must not decrease."""

    def finish(
        self,
        record_path: Path,
        table_rows: Sequence[Mapping[str, Any]],
        plots: Sequence[Path] = (),
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Log the scores, the ``facts`` beside them and the plots; then close the run."""

    def close(self, *, failed: bool = False) -> None:
        """End the run if there is one; safe to repeat."""


class NoTracker(Tracker):
    """Logs nothing."""


def make_tracker(name: str, *, mode: str, project: str) -> Tracker:
    """The tracker called ``name`` in TRACKERS."""
    module, tracker = TRACKERS[name].split(":")
    return getattr(importlib.import_module(module), tracker)(mode, project)
