"""Log-likelihoods and greedy continuations of many texts, what they share being read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas_bench.evaluation.lm_eval.prefixes import PrefixReader, Standing, Text
from atlas_bench.evaluation.streaming import decode, prefill

_SLAB = 2**24  # scores of the vocabulary that are held at once


@dataclass(frozen=True)
class Continuation:
    """Tokens whose likelihood is asked after a context of at least one token; both (n,) int32."""

    context: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Likelihood:
    """ln p(continuation | context), and whether greedy decoding would give the continuation."""

    value: float
    is_greedy: bool


@torch.inference_mode()
def score(
    reader: PrefixReader,
    asked: Sequence[Continuation],
    on_text: Callable[[], None] = lambda: None,
) -> list[Likelihood]:
    """Their likelihoods, in order. Raises ValueError for an empty context."""
    texts = []
    for index, one in enumerate(asked):
        if not len(one.context):
            raise ValueError(f"context {index} is empty; begin it with the end token")
        tokens = np.concatenate([one.context, one.tokens[:-1]]).astype(np.int32)
        texts.append(Text(tokens, len(one.context) - 1, index))
    found: dict[int, Likelihood] = {}
    for standing in reader.stand(texts, equal=False):
        wanted = [asked[text.index].tokens for text in standing.texts]
        scored = _score_batch(reader, standing, wanted)
        for text, likelihood in zip(standing.texts, scored, strict=True):
            found[text.index] = likelihood
            on_text()
    return [found[index] for index in range(len(asked))]


def _score_batch(
    reader: PrefixReader, standing: Standing, wanted: Sequence[np.ndarray]
) -> list[Likelihood]:
    """Rows of unequal lengths, filled up behind their end: no model here looks ahead."""
    model, depth, state = reader.model, standing.depth, standing.state
    rows = len(standing.texts)
    length = max(len(text.tokens) for text in standing.texts) - depth
    tokens = np.zeros((rows, length), np.int32)
    targets = np.full((rows, length), -1, np.int64)
    for row, (text, target) in enumerate(zip(standing.texts, wanted, strict=True)):
        tokens[row, : len(text.tokens) - depth] = text.tokens[depth:]
        first = text.plain - depth
        targets[row, first : first + len(target)] = target
    values, greedy = np.zeros(rows), np.ones(rows, bool)
    device = model.embedding.weight.device
    for start in range(0, length, reader.prefill_chunk):
        part = slice(start, start + reader.prefill_chunk)
        hidden, state = model(torch.from_numpy(tokens[:, part]).to(device, torch.long), state)
        at = np.nonzero(targets[:, part] >= 0)
        kept = hidden[torch.from_numpy(at[0]).to(device), torch.from_numpy(at[1]).to(device)]
        for each in _likelihoods(reader, kept, targets[:, part][at], at[0]):
            row, value, is_greedy = each
            np.add.at(values, row, value)
            np.logical_and.at(greedy, row, is_greedy)
    return [Likelihood(float(v), bool(g)) for v, g in zip(values, greedy, strict=True)]


def _likelihoods(reader: PrefixReader, hidden: Tensor, targets: np.ndarray, rows: np.ndarray):
    """In slabs of (n, vocabulary): rows, ln p of the targets, whether each is the likeliest."""
    slab = max(1, _SLAB // reader.model.embedding.num_embeddings)
    for start in range(0, len(targets), slab):
        part = slice(start, start + slab)
        logits = reader.model.logits(hidden[part])
        if logits.dtype != torch.float64:
            logits = logits.float()
        wanted = torch.from_numpy(targets[part]).to(logits.device)[:, None]
        chosen = logits.gather(1, wanted)
        value = (chosen - logits.logsumexp(-1, keepdim=True))[:, 0]
        is_greedy = (logits.argmax(-1, keepdim=True) == wanted)[:, 0]
        yield rows[part], value.double().cpu().numpy(), is_greedy.cpu().numpy()


@dataclass(frozen=True)
class Open:
    """A context (n,) int32 of at least one token, and when its continuation ends."""

    context: np.ndarray
    max_new: int
    is_complete: Callable[[list[int]], bool] = lambda tokens: False


def continue_greedily(
    reader: PrefixReader,
    asked: Sequence[Open],
    *,
    end_id: int,
    on_text: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """The new tokens of each, in order, without ``end_id``, at most ``max_new``."""
    texts = [
        Text(one.context.astype(np.int32), len(one.context) - 1, index)
        for index, one in enumerate(asked)
    ]
    found: dict[int, list[int]] = {}
    for standing in reader.stand(texts, equal=True):
        rest = np.stack([text.tokens[standing.depth :] for text in standing.texts])
        hidden, state = prefill(
            reader.model, torch.from_numpy(rest), standing.state, reader.prefill_chunk
        )
        ends = [asked[text.index] for text in standing.texts]

        def is_complete(row: int, tokens: list[int], ends: list[Open] = ends) -> bool:
            return len(tokens) >= ends[row].max_new or ends[row].is_complete(tokens)

        new = decode(
            reader.model, hidden, state, end_id=end_id, is_complete=is_complete,
            max_new=max(one.max_new for one in ends),
        )  # fmt: skip
        for text, tokens in zip(standing.texts, new, strict=True):
            found[text.index] = tokens
            on_text()
    return [found[index] for index in range(len(asked))]
