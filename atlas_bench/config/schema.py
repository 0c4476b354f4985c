"""Settings that belong to no component: where a run executes and where it logs."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_bench.config.bounds import bounded


@dataclass
class HardwareSettings:
    """Where a run executes. ``auto`` uses a GPU if there is one, and bfloat16 on it."""

    name: str = "auto"  # the chosen file
    device: str = bounded("auto", one_of=("auto", "cpu", "cuda"))  # where the model runs
    # Type of matrix products; weights and memories stay in float32.
    precision: str = bounded("auto", one_of=("auto", "float32", "bfloat16"))
    threads: int | None = bounded(None, at_least=1)  # threads of a CPU; null: torch chooses
    compile: bool = False  # whether torch.compile compiles the model for training
    prefill_chunk: int = bounded(2048, at_least=1)  # tokens that evaluation reads in one step
    batch_tokens: int = bounded(262144, at_least=1)  # context tokens evaluated together


@dataclass
class LoggerSettings:
    """Weights & Biases. The record on disk never depends on it."""

    name: str = "wandb"  # the chosen file
    # Offline runs are uploaded later by `wandb sync`.
    mode: str = bounded("offline", one_of=("online", "offline", "disabled"))
    project: str = "atlas-bench"  # the project that lists the runs
    group: str | None = None  # the group of runs; null: the sweep's folder, if there is one
