"""Log-likelihoods and greedy continuations of many texts; shared prefixes are read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from atlas_bench.evaluation.lm_eval.prefixes import PartlyRead, PrefixReader, Text
from atlas_bench.evaluation.streaming import decode, prefill

_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Continuation:
    """Tokens to score after a context of at least one token; both (n,) int32."""

    context: np.ndarray
    tokens: np.ndarray


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
    likelihoods: dict[int, Likelihood] = {}
    for batch in reader.read_prefixes(texts, equal=False):
        targets = [continuations[text.index].tokens for text in batch.texts]
        for text, likelihood in zip(batch.texts, _score_batch(reader, batch, targets), strict=True):
            likelihoods[text.index] = likelihood
            on_text()
    return [likelihoods[index] for index in range(len(continuations))]


def _score_batch(
    reader: PrefixReader, batch: PartlyRead, continuations: Sequence[np.ndarray]
) -> list[Likelihood]:
    """Rows of unequal lengths are padded at the end, which causal models do not see."""
    model, depth, state = reader.model, batch.depth, batch.state
    rows = len(batch.texts)
    length = max(len(text.tokens) for text in batch.texts) - depth
    tokens = np.zeros((rows, length), np.int32)
    targets = np.full((rows, length), -1, np.int64)
    for row, (text, target) in enumerate(zip(batch.texts, continuations, strict=True)):
        tokens[row, : len(text.tokens) - depth] = text.tokens[depth:]
        first = text.context - depth
        targets[row, first : first + len(target)] = target
    values, greedy = np.zeros(rows), np.ones(rows, bool)
    device = model.embedding.weight.device
    size = max(1, _LOGITS_AT_ONCE // model.embedding.num_embeddings)
    for start in range(0, length, reader.prefill_chunk):
        part = slice(start, start + reader.prefill_chunk)
        hidden, state = model(torch.from_numpy(tokens[:, part]).to(device, torch.long), state)
        row, column = np.nonzero(targets[:, part] >= 0)
        for first in range(0, len(row), size):
            at = row[first : first + size], column[first : first + size]
            logits = model.logits(hidden[at])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            target = torch.from_numpy(targets[:, part][at]).to(device)[:, None]
            value = (logits.gather(1, target) - logits.logsumexp(-1, keepdim=True))[:, 0]
            is_greedy = (logits.argmax(-1, keepdim=True) == target)[:, 0]
            np.add.at(values, at[0], value.double().cpu().numpy())
            np.logical_and.at(greedy, at[0], is_greedy.cpu().numpy())
    return [Likelihood(float(v), bool(g)) for v, g in zip(values, greedy, strict=True)]


@dataclass(frozen=True)
class GreedyRequest:
    """A context (n,) int32 of at least one token, and where its continuation ends."""

    context: np.ndarray
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
        Text(one.context.astype(np.int32), len(one.context) - 1, index)
        for index, one in enumerate(requests)
    ]
    answers: dict[int, list[int]] = {}
    for batch in reader.read_prefixes(texts, equal=True):
        rest = np.stack([text.tokens[batch.depth :] for text in batch.texts])
        hidden, state = prefill(
            reader.model, torch.from_numpy(rest), batch.state, reader.prefill_chunk
        )
        rows = [requests[text.index] for text in batch.texts]

        def is_complete(row: int, tokens: list[int], rows: list[GreedyRequest] = rows) -> bool:
            return len(tokens) >= rows[row].max_new or rows[row].is_complete(tokens)

        new = decode(
            reader.model, hidden, state, end_id=end_id, is_complete=is_complete,
            max_new=max(request.max_new for request in rows),
        )  # fmt: skip
        for text, tokens in zip(batch.texts, new, strict=True):
            answers[text.index] = tokens
            on_text()
    return [answers[index] for index in range(len(requests))]
