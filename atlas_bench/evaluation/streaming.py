"""Evaluation in constant memory: a context of any length is read in pieces, the state carried.

A recurrent model's memory does not depend on the length; an attention cache does, so a length
whose cache cannot fit is refused with the number of bytes it would need.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import psutil
import torch
from torch import Tensor

from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.state import ModelState


class DoesNotFit(ValueError):
    """The state at this length exceeds the memory there is; the message is one sentence."""


@dataclass(frozen=True)
class Prompt:
    """A context, what is asked after it (the answer token included), and where it came from."""

    context: np.ndarray
    question: np.ndarray
    index: int


@dataclass(frozen=True)
class Generated:
    """The new tokens of every prompt, in the prompts' order, and what they cost."""

    tokens: list[list[int]]
    tokens_read: int
    seconds: float
    peak_memory_bytes: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_read / max(self.seconds, 1e-9)


@torch.inference_mode()
def prefill(
    model: LanguageModel, tokens: Tensor, state: ModelState, prefill_chunk: int
) -> tuple[Tensor, ModelState]:
    """Read tokens (B, T) in pieces; the hidden state at the last one (B, width), and the state."""
    hidden = tokens.new_zeros(())
    for start in range(0, tokens.shape[1], prefill_chunk):
        part = tokens[:, start : start + prefill_chunk]
        hidden, state = model(part.to(model.embedding.weight.device, torch.long), state)
        hidden = hidden[:, -1]
    return hidden, state


@torch.inference_mode()
def complete(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new: int,
    end_id: int,
    prefill_chunk: int,
) -> list[list[int]]:
    """Greedy continuations of prompts that agree in the lengths of context and question."""
    state = model.init_state(len(prompts))
    context = torch.from_numpy(np.stack([prompt.context for prompt in prompts]))
    _, state = prefill(model, context, state, prefill_chunk)
    question = torch.from_numpy(np.stack([prompt.question for prompt in prompts]))
    hidden, state = prefill(model, question, state, prefill_chunk)
    return decode(model, hidden, state, max_new=max_new, end_id=end_id)


@torch.inference_mode()
def decode(
    model: LanguageModel,
    hidden: Tensor,
    state: ModelState,
    *,
    max_new: int,
    end_id: int,
    is_complete: Callable[[int, list[int]], bool] = lambda row, tokens: False,
) -> list[list[int]]:
    """Greedy continuations of what was read: ``hidden`` (B, width) at the last token, its state.

    A row ends before ``end_id``, or behind the token with which ``is_complete(row, tokens)``.
    """
    answers: list[list[int]] = [[] for _ in range(len(hidden))]
    open_ = [True] * len(hidden)
    for _ in range(max_new):
        chosen = model.logits(hidden).argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            open_[row] = open_[row] and token != end_id
            if open_[row]:
                answers[row].append(token)
                open_[row] = not is_complete(row, answers[row])
        if not any(open_):
            break
        hidden, state = prefill(model, chosen[:, None], state, 1)
    return answers


def generate(
    model: LanguageModel,
    prompts: Iterable[Prompt],
    *,
    max_new: int,
    end_id: int,
    prefill_chunk: int,
    batch_tokens: int,
    on_prompt: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generated:
    """Answer all prompts, at most ``batch_tokens`` tokens of context (and at least one) a time.

    Raises DoesNotFit before it reads anything whose state is larger than the free memory.
    """
    answers: dict[int, list[int]] = {}
    read = 0
    memory = PeakMemory(model.embedding.weight.device)
    started = time.perf_counter()
    for group in batches(prompts, batch_tokens):
        refuse_what_cannot_fit(model, len(group), len(group[0].context))
        found = complete(model, group, max_new=max_new, end_id=end_id, prefill_chunk=prefill_chunk)
        for prompt, tokens in zip(group, found, strict=True):
            answers[prompt.index] = tokens
            read += len(prompt.context) + len(prompt.question)
            on_prompt()
        memory.look()
        if should_stop():
            raise Interrupted
    seconds = time.perf_counter() - started
    ordered = [answers[index] for index in sorted(answers)]
    return Generated(ordered, read, seconds, memory.peak())


def batches(prompts: Iterable[Prompt], batch_tokens: int) -> Iterator[list[Prompt]]:
    """Prompts of equal lengths together. A window is held back at a time, never all of them."""
    window: list[Prompt] = []
    size = 0
    for prompt in prompts:
        window.append(prompt)
        size += len(prompt.context) + len(prompt.question)
        if size >= batch_tokens:
            yield from _equal_lengths(window)
            window, size = [], 0
    yield from _equal_lengths(window)


def _equal_lengths(window: list[Prompt]) -> Iterator[list[Prompt]]:
    def lengths(prompt: Prompt) -> tuple[int, int]:
        return len(prompt.context), len(prompt.question)

    for _, group in groupby(sorted(window, key=lengths), key=lengths):
        yield list(group)


def refuse_what_cannot_fit(model: LanguageModel, batch: int, length: int) -> None:
    """Raise DoesNotFit when the state after ``length`` tokens needs more memory than is free."""
    needed = model.state_bytes(batch, length)
    free = free_memory(model.embedding.weight.device)
    if needed > free:
        raise DoesNotFit(
            f"{length:,} tokens need {needed:,} bytes of state for {batch} sequence"
            f"{'s' if batch > 1 else ''} and {free:,} are free; use a shorter length in "
            f"task.lengths, a smaller hardware.batch_tokens or a recurrent model"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on ``device``."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


class PeakMemory:
    """Highest memory in use since it was made: on a GPU allocated, on a CPU resident bytes.

    Linux keeps the resident high-water mark itself; elsewhere it is what `look` saw.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            try:
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")
            except OSError:  # not permitted in some containers: fall back to looking
                pass
        self.look()

    def look(self) -> None:
        self.seen = max(self.seen, psutil.Process(os.getpid()).memory_info().rss)

    def peak(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        self.look()
        if sys.platform == "linux" and self._kept_by_system():
            return self._kept_by_system()
        return self.seen

    @staticmethod
    def _kept_by_system() -> int:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0
