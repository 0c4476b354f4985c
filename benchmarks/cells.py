"""One measurement in a process of its own, so that no peak and no warm cache is inherited."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys


def run_cell(script: str, *arguments: str) -> dict:
    """What ``script --one ARGUMENTS`` prints as JSON on its last line."""
    command = [sys.executable, script, "--one", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    """Of every key, over the rounds."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}
