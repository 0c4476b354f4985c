"""What the benchmarks share: composed settings, and measurements in processes of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas_bench.runs.settings import RunSettings


def compose_settings(overrides: list[str]) -> RunSettings:
    """The settings of ``atlas-bench OVERRIDES``."""
    from atlas_bench.cli import compose

    return compose.compose_settings(overrides)


def run_alone(script: str, *arguments: str) -> dict:
    """The JSON on the last line that ``script --one ARGUMENTS`` prints.

    A process of its own inherits no peak memory and no warm cache.
    """
    command = [sys.executable, script, "--one", *arguments]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout.splitlines()[-1])


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of every key over the rounds."""
    return {key: statistics.median(values[key] for values in rounds) for key in rounds[0]}
