"""Plausible records, made up but always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas_bench.artifacts.metrics import wilson_interval
from atlas_bench.artifacts.schema import Record, Score

LENGTHS = [(0, "0k"), (1000, "1k"), (2000, "2k"), (4000, "4k"), (8000, "8k"), (16000, "16k")]
CORRECT = {
    "atlas": [100, 98, 97, 96, 93, 90],
    "titans": [100, 97, 93, 90, 82, 71],
    "transformer": [100, 95, 80, 55, 33, 18],
}


def record(
    model: str = "atlas",
    seed: int = 0,
    *,
    correct: Sequence[int] | None = None,
    lengths: Sequence[tuple[int, str]] = LENGTHS,
    subtasks: Sequence[str] = ("qa1",),
    samples: int = 100,
    protocol: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    scores = [
        Score(
            *(subtask, tokens, name, metric, right / samples, samples),
            *wilson_interval(right, samples),
            tokens_per_second=1e4,
            peak_memory_bytes=10**9,
            measured_tokens_mean=max(0.0, tokens - 300.0),
        )
        for subtask in subtasks
        for metric in ("exact_match", "published_metric")
        for (tokens, name), right in zip(lengths, correct or CORRECT[model], strict=False)
    ]
    fields = {
        "name": f"{model}-babilong",
        "model": model,
        "scale": "tiny",
        "task": "babilong",
        "parameters": 1_234_567,
        "seed": seed,
        "scores": scores,
        "wall_seconds": 600.0,
        "train_seconds": 500.5,
        "train_tokens": 2_000_896,
        "versions": {"python": "3.11.4", "torch": "2.13.0"},
        "git_commit": "0123abc",
        "device": "cpu",
        "tokenizer": {"name": "embedded", "fingerprint": "f00d", "vocab_size": 1024},
        "protocol": {"noise": "embedded", "samples": samples, **(protocol or {})},
        "config": config or {"seed": seed, "model": {"name": model}, "training": {"tokens": 2e6}},
        "started_at": "2025-01-31T12:00:00+00:00",
    }
    return Record(**(fields | changes))
