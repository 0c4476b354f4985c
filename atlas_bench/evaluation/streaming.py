"""Evaluation in constant memory: contexts are read in chunks, with the state carried along.

The memory of a recurrent model does not depend on the length of the context. An attention cache
does, so a length whose cache cannot fit is refused with the number of bytes that it needs.

Shapes: B sequences of T tokens; hidden states have the width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from atlas_bench.evaluation.memory_use import Meter, Used, refuse_what_cannot_fit
from atlas_bench.evaluation.pieces import Once, each_time
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.state import ModelState


@dataclass(frozen=True)
class Prompt:
    """A context, the question after it (with the answer token), and its place among the prompts."""

    context: np.ndarray
    question: np.ndarray
    index: int


@dataclass(frozen=True)
class Generated:
    """The new tokens of every prompt, in the prompts' order, and their cost."""

    tokens: list[list[int]]
    tokens_read: int
    used: list[Used]


@torch.inference_mode()
def prefill(
    model: LanguageModel, tokens: Tensor, state: ModelState, prefill_chunk: int
) -> tuple[Tensor, ModelState]:
    """Read tokens (B, T) in chunks; the hidden state at the last one (B, width), and the state."""
    last = tokens.new_zeros(())
    for hidden, after in read(model, tokens, state, prefill_chunk):
        last, state = hidden[:, -1], after
    return last, state


def read(
    model: LanguageModel, tokens: Tensor, state: ModelState, prefill_chunk: int
) -> Iterator[tuple[Tensor, ModelState]]:
    """Hidden states (B, at most ``prefill_chunk``, width) of tokens (B, T), chunk by chunk, each
    with the state after it."""
    for start in range(0, tokens.shape[1], prefill_chunk):
        part = tokens[:, start : start + prefill_chunk]
        hidden, state = model(part.to(model.embedding.weight.device, torch.long), state)
        yield hidden, state


@torch.inference_mode()
def complete(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new: int,
    end_id: int,
    prefill_chunk: int,
) -> list[list[int]]:
    """Greedy continuations of prompts whose contexts and questions have equal lengths."""
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
    """Greedy continuations after ``hidden`` (B, width), the last token's hidden state.

    A row ends before ``end_id``, or after the token that makes ``is_complete(row, tokens)`` true.
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
    once: Once = each_time,
) -> Generated:
    """Answer all prompts, in batches of at most ``batch_tokens`` tokens and at least one prompt.

    Raises DoesNotFit before it reads a batch whose state is larger than the free memory.
    """

    def answer(group: list[Prompt]) -> list[list[int]]:
        refuse_what_cannot_fit(model, len(group), len(group[0].context))
        return complete(model, group, max_new=max_new, end_id=end_id, prefill_chunk=prefill_chunk)

    groups, device = batches(prompts, batch_tokens), model.embedding.weight.device
    return answer_groups(groups, answer, device, on_prompt, once)


def answer_groups(
    groups: Iterable[list[Prompt]],
    answer: Callable[[list[Prompt]], list[list[int]]],
    device: torch.device,
    on_prompt: Callable[[], None],
    once: Once,
) -> Generated:
    """The answers to all prompts, group by group; each group is a piece of ``once``."""
    answers: dict[int, list[int]] = {}
    used: list[Used] = []
    tokens_read, meter = 0, Meter(device)
    for number, group in enumerate(groups):

        def work(group: list[Prompt] = group) -> tuple[list[list[int]], Used]:
            return answer(group), meter.used()

        group_answers, group_used = once(f"group {number}", work)
        meter.restart()
        used.append(group_used)
        for prompt, tokens in zip(group, group_answers, strict=True):
            answers[prompt.index] = tokens
            tokens_read += len(prompt.context) + len(prompt.question)
            on_prompt()
    ordered = [answers[index] for index in sorted(answers)]
    return Generated(ordered, tokens_read, used)


def batches(
    prompts: Iterable[Prompt], batch_tokens: int, most: int | None = None
) -> Iterator[list[Prompt]]:
    """Groups of prompts of equal lengths, from windows of about ``batch_tokens`` tokens.

    A group has at most ``most`` prompts.
    """
    window: list[Prompt] = []
    size = 0
    for prompt in prompts:
        window.append(prompt)
        size += len(prompt.context) + len(prompt.question)
        if size >= batch_tokens:
            yield from _equal_lengths(window, most)
            window, size = [], 0
    yield from _equal_lengths(window, most)


def _equal_lengths(window: list[Prompt], most: int | None) -> Iterator[list[Prompt]]:
    def lengths(prompt: Prompt) -> tuple[int, int]:
        return len(prompt.context), len(prompt.question)

    for _, equal in groupby(sorted(window, key=lengths), key=lengths):
        group = list(equal)
        size = most or len(group)
        yield from (group[first : first + size] for first in range(0, len(group), size))
