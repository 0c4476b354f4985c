"""What a run measured: the schema of `record.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Score:
    """One number: a metric of one subtask at one length, with what it cost."""

    subtask: str
    length_tokens: int  # nominal
    length_name: str  # "0k", "16k", "1M"
    metric: str  # "exact_match", "accuracy", "word_perplexity"
    value: float  # of a share between 0 and 1
    samples: int
    ci_low: float | None = None  # Wilson, 95 %; None where the value is no proportion
    ci_high: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    measured_tokens_mean: float | None = None


@dataclass
class DepthScore:
    """A metric of the samples whose answer lay between two depths (0 to 1) of the context."""

    subtask: str
    length_tokens: int
    length_name: str
    metric: str
    depth_low: float
    depth_high: float
    value: float
    samples: int


@dataclass
class Record:
    """One run. ``protocol`` says how it was measured and is free in form; runs whose protocols
    differ are never averaged. ``path`` is where it was read from and is not written."""

    name: str
    model: str
    scale: str
    task: str
    parameters: int
    seed: int
    scores: list[Score]
    wall_seconds: float
    train_seconds: float
    train_tokens: int
    versions: dict[str, str]
    device: str
    tokenizer: dict[str, Any]
    protocol: dict[str, Any]
    config: dict[str, Any]
    started_at: str  # ISO 8601
    git_commit: str | None = None
    notes: list[str] = field(default_factory=list)
    depths: list[DepthScore] = field(default_factory=list)
    validation: list[Score] = field(default_factory=list)  # of samples apart from the scores'
    state_bytes: int | None = None  # of one sequence at the longest length scored
    path: Path | None = field(default=None, compare=False)


@dataclass
class Scores:
    """What evaluation found: the cells' scores, and those by depth where answers have one."""

    scores: list[Score] = field(default_factory=list)
    depths: list[DepthScore] = field(default_factory=list)
