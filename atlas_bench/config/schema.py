"""Settings that belong to no component: where a run executes and where it logs."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")
LOGGER_MODES = ("online", "offline", "disabled")


@dataclass
class HardwareSettings:
    """Where it runs. ``auto`` takes a GPU where there is one, and bfloat16 on it."""

    name: str = "auto"  # of the chosen file
    device: str = "auto"  # that the model runs on
    precision: str = "auto"  # of products; weights and memories stay in float32
    threads: int | None = None  # of a CPU; null leaves the choice to torch
    compile: bool = False  # torch.compile the model for training
    prefill_chunk: int = 2048  # tokens a sequence reads at once in evaluation
    batch_tokens: int = 262144  # tokens of context evaluated together, at least one sample


@dataclass
class LoggerSettings:
    """Weights & Biases; the record on disk never depends on it."""

    name: str = "wandb"  # of the chosen file
    mode: str = "offline"  # offline runs are uploaded later by `wandb sync`
    project: str = "atlas-bench"  # that runs are listed in
    group: str | None = None  # null: a sweep's folder
