"""The job that gpu_check.py hands to one of its processes; imports nothing large."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

RESULTS = "gpu_check.json"


@dataclass(frozen=True)
class Job:
    """What one process of a step has to do."""

    device: str
    part: int  # of ``parts`` processes that share the step's cells
    parts: int
    folder: Path  # where gpu_check.py writes its results
    seconds: float  # until the process is ended

    @property
    def small(self) -> bool:
        """Whether sizes are reduced, for a test on a CPU."""
        return self.device == "cpu"

    def share(self, cells: list) -> list:
        """This process's cells: with reduced sizes the first two of them."""
        return cells[self.part :: self.parts][: 2 if self.small else None]

    def rows_of(self, step: str) -> list[dict]:
        """What an earlier step found."""
        path = self.folder / RESULTS
        if not path.is_file():
            return []
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        return steps.get(step, {}).get("rows", [])
