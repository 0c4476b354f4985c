"""The run whose faults are performed, and what must come of it whatever happened on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from in_process import atlas_bench
from tally import Tally

from atlas_bench.artifacts.checkpoint import find_checkpoint
from atlas_bench.artifacts.folder import RunFolder

WORDS = [
    "model=deltanet", "model.match=none", "scale.width=16", "scale.heads=2", "task=mqar",
    "task.grid=[{length:32,pairs:4},{length:64,pairs:8}]", "task.vocab_size=64",
    "task.train_examples=32", "task.test_examples=8", "training.epochs=2",
    "training.min_sequences=8", "training.validate_every=3", "training.warmup_steps=2",
    "training.checkpoint_every=2", "logger=none", "hardware.device=cpu", "hardware.threads=1",
]  # fmt: skip
RUN = "run"
PLACE = f"hydra.run.dir={RUN}"
# Facts of the process, not of what was learned or measured.
TIMES = ("tokens_per_second", "seconds")


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its metrics, scores and weights, without times."""

    metrics: list[dict]
    scores: list[dict]
    weights: bytes


def outcome(folder: Path) -> Outcome:
    run = RunFolder(folder)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    weights = (find_checkpoint(folder) / "model.safetensors").read_bytes()
    return Outcome(
        [{key: line[key] for key in line if key not in TIMES} for line in lines],
        scores(folder),
        weights,
    )


def scores(folder: Path) -> list[dict]:
    """What a record measured, without times."""
    found = json.loads(RunFolder(folder).record.read_text())["scores"]
    return [
        {key: each.get(key) for key in ("name", "metric", "value", "samples")} for each in found
    ]


@dataclass(frozen=True)
class Attempt:
    """The exit code of a command, and what it wrote to standard error."""

    code: int
    said: str

    @property
    def in_one_sentence(self) -> bool:
        """Whether a failure was told in one sentence, without a traceback."""
        lines = [line for line in self.said.splitlines() if line.startswith("atlas-bench")]
        return self.code == 2 and len(lines) == 1 and "Traceback" not in self.said


def attempt(capfd: pytest.CaptureFixture[str], *words: str) -> Attempt:
    """Run the command in this process and in the working directory."""
    capfd.readouterr()
    code = atlas_bench(*words)
    return Attempt(code, capfd.readouterr().err)


def finish(capfd: pytest.CaptureFixture[str]) -> Attempt:
    """What a user does after a fault: resume the run, or where nothing is left start it again."""
    found = attempt(capfd, *WORDS, PLACE, f"resume={RUN}")
    if found.in_one_sentence and not has_checkpoint(Path(RUN)):
        shutil.rmtree(RUN, ignore_errors=True)
        return attempt(capfd, *WORDS, PLACE)
    return found


def judge(tally: Tally, where: str, found: Attempt, whole: Outcome) -> None:
    """Count a fault by what the run came to in the end."""
    tally.tried(where)
    if "Traceback" in found.said:
        tally.traceback(where, found.said)
    elif found.code != 0:
        tally.lost(where, found.said)
    elif outcome(Path(RUN)) != whole:
        tally.wrong(where)


def judge_failure(
    tally: Tally, where: str, found: Attempt, whole: Outcome, capfd: pytest.CaptureFixture[str]
) -> None:
    """Count a fault that the run may do without; else it is one sentence, and the run goes on."""
    if found.code == 0:
        judge(tally, where, found, whole)
    elif not found.in_one_sentence:
        tally.tried(where)
        tally.traceback(where, found.said)
    else:
        judge(tally, where, finish(capfd), whole)


def has_checkpoint(run: Path) -> bool:
    """Whether a checkpoint was written whole."""
    return any(run.glob("checkpoints/step-*/sha256.json"))
