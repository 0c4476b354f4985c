"""Memory and time of an evaluation: what is free, what does not fit, what was used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import psutil
import torch

from atlas_bench.config.errors import ConfigError
from atlas_bench.models.language_model import LanguageModel

Used = tuple[float, int]  # seconds and the peak of bytes, of a piece of an evaluation


class DoesNotFit(ConfigError):
    """The state at this length exceeds the free memory; the message is one sentence."""


def refuse_what_cannot_fit(model: LanguageModel, batch: int, length: int) -> None:
    """Raise DoesNotFit if the state after ``length`` tokens needs more memory than is free."""
    needed = model.state_bytes(batch, length)
    free = free_memory(model.embedding.weight.device)
    if needed > free:
        raise DoesNotFit(
            f"{length:,} tokens need {needed:,} bytes of state for {batch} sequence"
            f"{'s' if batch > 1 else ''} and {free:,} are free; use a shorter length in "
            f"task.lengths, a smaller hardware.batch_tokens or a recurrent model"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


class Meter:
    """Time and peak memory since it was made: allocated bytes on a GPU, resident bytes on a CPU.

    Linux keeps the resident high-water mark itself; elsewhere it is the highest value that `look`
    saw.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Forget the time and the peak so far."""
        self.seen, self.started = 0, time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # not on other systems, nor in some containers
        self.look()

    def look(self) -> None:
        """Take note of the memory in use."""
        self.seen = max(self.seen, psutil.Process().memory_info().rss)

    def peak(self) -> int:
        """The highest memory in use, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        self.look()
        return _high_water_mark() or self.seen

    def used(self) -> Used:
        """The seconds and the peak of bytes so far."""
        return time.perf_counter() - self.started, self.peak()

    def cost(self, tokens: int) -> dict[str, float]:
        """The cost fields of a score that took ``tokens`` tokens."""
        return total_cost(tokens, [self.used()])


def total_cost(tokens: int, used: Sequence[Used]) -> dict[str, float]:
    """The cost fields of a score whose pieces took ``tokens`` tokens in all."""
    seconds, peaks = zip(*used, strict=True)
    return {
        "tokens_per_second": round(tokens / max(sum(seconds), 1e-9), 1),
        "peak_memory_bytes": max(peaks),
    }


def _high_water_mark() -> int:
    """Linux's own peak of the resident bytes; 0 on other systems."""
    with suppress(OSError), open("/proc/self/status") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), 0)
    return 0
