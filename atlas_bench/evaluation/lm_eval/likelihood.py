"""Log-likelihoods and greedy continuations of many texts; shared prefixes are read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from atlas_bench.evaluation.lm_eval.prefixes import PartlyRead, PrefixReader, Text
from atlas_bench.evaluation.streaming import decode, prefill, read

_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Continuation:
    """Tokens to score after a context of at least one token."""

    context: Sequence[int] | np.ndarray
    tokens: Sequence[int] | np.ndarray


class Likelihood(NamedTuple):
    """ln p(continuation | context), and whether greedy decoding gives the continuation."""

    value: float
    is_greedy: bool


@torch.inference_mode()
def score(
    reader: PrefixReader,
    continuations: Sequence[Continuation],
    on_text: Callable[[], None] = lambda: None,
) -> list[Likelihood]:
    """The likelihoods, in order. Raises ValueError for an empty context."""
    texts = []
    for index, one in enumerate(continuations):
        if not len(one.context):
            raise ValueError(f"context {index} is empty; begin it with the end token")
        tokens = np.concatenate([one.context, one.tokens[:-1]]).astype(np.int32)
        texts.append(Text(tokens, len(one.context) - 1, index))

    def answer(batch: PartlyRead) -> list[Likelihood]:
        return _score_batch(reader, batch, continuations)

    return _in_order(reader.read_prefixes(texts, equal=False), answer, on_text)


def _in_order(
    batches: Iterable[PartlyRead], answer: Callable[[PartlyRead], list], on_text: Callable[[], None]
) -> list:
    """What ``answer`` gives for the texts of each batch, in the order of the texts."""
    answers = {}
    for batch in batches:
        for text, one in zip(batch.texts, answer(batch), strict=True):
            answers[text.index] = one
            on_text()
    return [answers[index] for index in sorted(answers)]


def _score_batch(
    reader: PrefixReader, batch: PartlyRead, continuations: Sequence[Continuation]
) -> list[Likelihood]:
    """Rows of unequal lengths are padded at the end, which causal models do not see."""
    model, depth, rows = reader.model, batch.depth, len(batch.texts)
    length = max(len(text.tokens) for text in batch.texts) - depth
    tokens = np.zeros((rows, length), np.int32)
    targets = np.full((rows, length), -1, np.int64)
    for row, text in enumerate(batch.texts):
        tokens[row, : len(text.tokens) - depth] = text.tokens[depth:]
        first, target = text.context - depth, continuations[text.index].tokens
        targets[row, first : first + len(target)] = target
    values, greedy = np.zeros(rows), np.ones(rows, bool)
    size = max(1, _LOGITS_AT_ONCE // model.embedding.num_embeddings)
    start = 0
    for hidden, _ in read(model, torch.from_numpy(tokens), batch.state, reader.prefill_chunk):
        part = targets[:, start : start + hidden.shape[1]]
        start += hidden.shape[1]
        row, column = np.nonzero(part >= 0)
        for first in range(0, len(row), size):
            at = row[first : first + size], column[first : first + size]
            logits = model.logits(hidden[at])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            target = torch.from_numpy(part[at]).to(logits.device)[:, None]
            value = (logits.gather(1, target) - logits.logsumexp(-1, keepdim=True))[:, 0]
            is_greedy = (logits.argmax(-1, keepdim=True) == target)[:, 0]
            np.add.at(values, at[0], value.double().cpu().numpy())
            np.logical_and.at(greedy, at[0], is_greedy.cpu().numpy())
    return [Likelihood(float(v), bool(g)) for v, g in zip(values, greedy, strict=True)]


@dataclass(frozen=True)
class GreedyRequest:
    """A context of at least one token, and where its continuation ends."""

    context: Sequence[int] | np.ndarray
    max_new: int
    is_complete: Callable[[list[int]], bool] = lambda tokens: False


def continue_greedily(
    reader: PrefixReader,
    requests: Sequence[GreedyRequest],
    *,
    end_id: int,
    on_text: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """The new tokens of each request, in order, without ``end_id``."""
    texts = [
        Text(np.asarray(one.context, np.int32), len(one.context) - 1, index)
        for index, one in enumerate(requests)
    ]

    def answer(batch: PartlyRead) -> list[list[int]]:
        rows = [requests[text.index] for text in batch.texts]
        rest = torch.from_numpy(np.stack([text.tokens[batch.depth :] for text in batch.texts]))
        hidden, state = prefill(reader.model, rest, batch.state, reader.prefill_chunk)

        def is_complete(row: int, tokens: list[int]) -> bool:
            return len(tokens) >= rows[row].max_new or rows[row].is_complete(tokens)

        most = max(request.max_new for request in rows)
        return decode(
            reader.model, hidden, state, max_new=most, end_id=end_id, is_complete=is_complete
        )

    return _in_order(reader.read_prefixes(texts, equal=True), answer, on_text)
