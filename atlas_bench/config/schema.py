"""Settings that belong to no component: where a run executes and where it logs."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_bench.config.bounds import bounded
from atlas_bench.tracking import TRACKERS


@dataclass
class HardwareSettings:
    """Where a run executes. ``auto`` uses a GPU if there is one, with bfloat16 products."""

    name: str = "auto"  # file in conf/hardware
    device: str = bounded("auto", one_of=("auto", "cpu", "cuda"))  # where the model runs
    # Type of matrix products; weights and memories stay in float32.
    precision: str = bounded("auto", one_of=("auto", "float32", "bfloat16"))
    threads: int | None = bounded(None, at_least=1)  # CPU threads; null: torch decides
    compile: bool = False  # whether torch.compile compiles the model for training
    # Tokens of a sequence that evaluation reads at once.
    prefill_chunk: int = bounded(2048, at_least=1)
    batch_tokens: int = bounded(262144, at_least=1)  # context tokens that are evaluated together

    def precision_on(self, device_type: str) -> str:
        """The precision that ``auto`` means on a ``cpu`` or ``cuda`` device."""
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if device_type == "cuda" else "float32"


@dataclass
class LoggerSettings:
    """The tracker of a run. The record on disk never depends on it."""

    name: str = bounded("wandb", one_of=TRACKERS)  # the tracker
    # `wandb sync` uploads offline runs.
    mode: str = bounded("offline", one_of=("online", "offline", "disabled"))
    project: str = "atlas-bench"  # W&B project
    group: str | None = None  # W&B group; null: the folder of the sweep
