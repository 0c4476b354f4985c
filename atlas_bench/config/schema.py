"""Settings that belong to no component: where a run executes and where it logs."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "bfloat16")
LOGGER_MODES = ("online", "offline", "disabled")


@dataclass
class HardwareSettings:
    """Where a run executes. ``auto`` uses a GPU if there is one, with bfloat16 products."""

    name: str = "auto"  # file in conf/hardware
    device: str = "auto"  # auto | cpu | cuda
    precision: str = "auto"  # of matrix products; weights and memories stay in float32
    threads: int | None = None  # CPU threads; null: torch decides
    compile: bool = False  # torch.compile the model for training
    prefill_chunk: int = 2048  # tokens of a sequence that evaluation reads at once
    batch_tokens: int = 262144  # tokens of context that are evaluated together

    def precision_on(self, device_type: str) -> str:
        """The precision that ``auto`` means on a ``cpu`` or ``cuda`` device."""
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if device_type == "cuda" else "float32"


@dataclass
class LoggerSettings:
    """The tracker of a run. The record on disk never depends on it."""

    name: str = "wandb"  # tracker, and file in conf/logger: wandb | none
    mode: str = "offline"  # online | offline | disabled; `wandb sync` uploads offline runs
    project: str = "atlas-bench"  # W&B project
    group: str | None = None  # W&B group; null: the folder of the sweep
