"""What a run measured: the schema of `record.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from atlas_bench.artifacts.metrics import Metric, metric_of_format_1

RECORD_FORMAT = 2  # format 1, of records without this number, has no metrics


@dataclass
class Score:
    """One number: a metric of one subtask at one length, with what it cost."""

    subtask: str
    length_tokens: int  # nominal
    length_name: str  # "0k", "16k", "1M"
    metric: str  # the name of one of the record's metrics
    value: float  # in the metric's unit; a share lies between 0 and 1
    samples: int
    ci_low: float | None = None  # 95 % interval; None for a metric without one
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
class StageEnd:
    """How a stage of the training curriculum ended, after so many tokens of the whole training."""

    stage: int
    tokens: int
    passed: bool  # whether the answers were right; False: its share of the budget was spent


@dataclass
class Record:
    """One run. ``protocol`` says how it was measured and has no fixed keys; runs with different
    protocols are never averaged. ``path`` is the file it was read from and is not written."""

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
    validation: list[Score] = field(default_factory=list)  # other samples than those of `scores`
    state_bytes: int | None = None  # of one sequence at the longest length scored
    metrics: list[Metric] = field(default_factory=list)  # those that the scores name
    # The processes that worked on the run, in turn, a resumed one last: when, where, from which
    # code; see runs/provenance.py.
    sessions: list[dict[str, Any]] = field(default_factory=list)
    # The stages of the curriculum that ended; None if training had one stage, or is not known.
    stages: list[StageEnd] | None = None
    format: int = RECORD_FORMAT
    path: Path | None = field(default=None, compare=False)

    def metric(self, name: str) -> Metric:
        """The metric called ``name``; one that is not declared is read as in format 1."""
        declared = {metric.name: metric for metric in self.metrics}
        return declared.get(name) or metric_of_format_1(name)

    @property
    def learnt_at(self) -> int | None:
        """Training tokens after which the model first passed a stage; None if it passed none."""
        return next((end.tokens for end in self.stages or () if end.passed), None)

    @property
    def not_learnt(self) -> bool:
        """Whether training had stages and the model passed none of them."""
        return self.stages is not None and self.learnt_at is None

    @property
    def validation_score(self) -> float | None:
        """Mean over subtasks and lengths of the first metric, negative where lower is better.

        None for a run without validation samples.
        """
        if not self.validation:
            return None
        name = self.validation[0].metric
        values = [score.value for score in self.validation if score.metric == name]
        return self.metric(name).score(mean(values))


@dataclass
class Scores:
    """What evaluation found: the cells' scores, and those by depth where answers have one.

    ``predictions`` are the lines of predictions.jsonl, in JSON's types; it has them once the cell
    is scored.
    """

    scores: list[Score] = field(default_factory=list)
    depths: list[DepthScore] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
