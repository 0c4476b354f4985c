"""Likelihoods: a direct forward pass's, however texts are batched and what they share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from atlas_bench.evaluation import memory_use
from atlas_bench.evaluation.lm_eval import prefixes
from atlas_bench.evaluation.lm_eval.likelihood import (
    Continuation,
    GreedyRequest,
    continue_greedily,
    score,
)
from atlas_bench.evaluation.lm_eval.prefixes import SHORTEST_SHARED, PrefixReader, Text
from atlas_bench.evaluation.memory_use import DoesNotFit
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import (
    AttentionSettings,
    MemorySettings,
    ModelSettings,
    ScaleSettings,
)

WORDS = 40
SCALE = ScaleSettings(width=16, layers=2, heads=2)
TITANS = MemorySettings(optimizer="momentum", chunk=8, bounded_step=True, gate="hard_sigmoid")
ATLAS = MemorySettings(
    optimizer="muon", chunk=8, window=4, bounded_step=True, features="polynomial",
    gate="hard_sigmoid",
)  # fmt: skip
MODELS = {
    "transformer": ModelSettings(name="transformer", mixers=["attention"]),
    "titans": ModelSettings(name="titans", memory=TITANS),
    "deltanet": ModelSettings(
        name="deltanet", memory=MemorySettings(network="matrix", optimizer="gd", retain="none")
    ),
    "atlas": ModelSettings(name="atlas", memory=ATLAS),
    "hybrid": ModelSettings(
        name="hybrid", mixers=["memory_as_context", "memory_as_gate"], segment=16, memory=TITANS,
        attention=AttentionSettings(window=6, persistent_tokens=2),
    ),
}  # fmt: skip


@cache
def build(name: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    settings = replace(MODELS[name], match="none")
    return build_model(settings, SCALE, vocab_size=WORDS, seed=0).eval().to(dtype)


def reader(name: str, dtype: torch.dtype = torch.float64, **options) -> PrefixReader:
    chosen = {"prefill_chunk": 64, "batch_tokens": 10**6} | options
    return PrefixReader(build(name, dtype), **chosen)


def drawn(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, WORDS, length, dtype=np.int32)


def questions() -> list[Continuation]:
    """Two contexts, prompts on them that share more and less, several continuations of each."""
    asked = []
    for context in (drawn(0, 33), drawn(1, 25)):
        for prompt in range(3):
            ending = drawn(10 + prompt, 3 + SHORTEST_SHARED * prompt)
            for length in (1, 3):
                asked.append(
                    Continuation(np.concatenate([context, ending]), drawn(20 + length, length))
                )
    # A prompt that goes on where another's continuation stands, one token alone, nothing asked.
    asked.append(Continuation(np.concatenate([asked[0].context, asked[1].tokens]), drawn(30, 2)))
    asked.append(Continuation(drawn(31, 1), drawn(32, 5)))
    asked.append(Continuation(asked[3].context, drawn(33, 0)))
    return asked


@cache
def direct(name: str, dtype: torch.dtype = torch.float64) -> list[tuple[float, bool]]:
    """One forward pass over each text."""
    found = []
    for one in questions():
        tokens = torch.from_numpy(np.concatenate([one.context, one.tokens])).long()[None]
        model = build(name, dtype)
        with torch.no_grad():
            logits = model.logits(model(tokens)[0])[0].double().log_softmax(-1)
        logits = logits[len(one.context) - 1 : -1]
        wanted = torch.from_numpy(one.tokens).long()
        value = logits.gather(1, wanted[:, None]).sum()
        found.append((float(value), bool((logits.argmax(-1) == wanted).all())))
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared": False},
        {"batch_tokens": 150, "prefill_chunk": 7},
    ],
    ids=["shared", "apart", "shared-pieces"],
)
def test_likelihoods_are_a_forward_passs(name: str, options: dict) -> None:
    found = score(reader(name, **options), questions())
    for likelihood, (value, is_greedy) in zip(found, direct(name), strict=True):
        assert likelihood.value == pytest.approx(value, rel=0, abs=1e-8)
        assert likelihood.is_greedy == is_greedy


@pytest.mark.parametrize("name", MODELS)
def test_likelihoods_in_float32_differ_by_rounding(name: str) -> None:
    """Trust A1: the error against float64 is a few times that of a plain float32 forward pass."""
    found = score(reader(name, torch.float32), questions())
    exact = np.array([value for value, _ in direct(name)])
    plain = np.array([value for value, _ in direct(name, torch.float32)])
    allowed = 4 * max(np.abs(plain - exact).max(), np.finfo(np.float32).eps * np.abs(exact).max())
    assert np.abs(np.array([likelihood.value for likelihood in found]) - exact).max() <= allowed


@pytest.mark.parametrize("name", ["transformer", "atlas", "hybrid"])
def test_the_likeliest_continuation_is_known_as_such(name: str) -> None:
    context = drawn(3, 30)
    (tokens,) = continue_greedily(reader(name), [GreedyRequest(context, 4)], end_id=-1)
    best = np.array(tokens, np.int32)
    other = np.append(best[:-1], (best[-1] + 1) % WORDS).astype(np.int32)
    found = score(reader(name), [Continuation(context, best), Continuation(context, other)])
    assert [likelihood.is_greedy for likelihood in found] == [True, False]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_shared_changes_no_greedy_continuation(name: str) -> None:
    contexts = [one.context for one in questions()]
    asked = [GreedyRequest(context, 1 + index % 5) for index, context in enumerate(contexts)]
    alone = [continue_greedily(reader(name), [one], end_id=3)[0] for one in asked]
    assert max(map(len, alone)) == 5
    for options in ({}, {"batch_tokens": 100, "prefill_chunk": 9}):
        assert continue_greedily(reader(name, **options), asked, end_id=3) == alone


def test_a_continuation_ends_where_it_is_told() -> None:
    context = drawn(3, 30)
    (tokens,) = continue_greedily(reader("titans"), [GreedyRequest(context, 9)], end_id=-1)
    stop = tokens[4]
    first = tokens.index(stop)
    asked = [
        GreedyRequest(context, 9, lambda new: new[-1] == stop),
        GreedyRequest(context, 2),
        GreedyRequest(context, 9),
    ]
    found = continue_greedily(reader("titans"), asked, end_id=-1)
    assert found == [tokens[: first + 1], tokens[:2], tokens]
    (cut,) = continue_greedily(reader("titans"), [GreedyRequest(context, 9)], end_id=stop)
    assert cut == tokens[:first]


def test_a_context_is_read_once_for_all_its_questions_and_choices() -> None:
    """200 questions of 20 to 39 tokens with two choices each, over one context of 3,000."""
    context = drawn(0, 3000)
    asked = []
    for number in range(200):
        question = drawn(100 + number, 20 + number % 20)
        for choice in (4, 5):
            tokens = np.array([choice, 1, 2], np.int32)
            asked.append(Continuation(np.concatenate([context, question]), tokens))
    sharing = reader("deltanet")
    score(sharing, asked)
    inside = sum(len(one.context) - len(context) - 1 for one in asked[::2])
    least = len(context) + inside + 3 * len(asked)  # of each choice: what is before its tokens
    assert least <= sharing.tokens_read <= least + SHORTEST_SHARED
    one = reader("deltanet")
    score(one, asked[:1])
    assert sharing.tokens_read < 5 * one.tokens_read
    apart = reader("deltanet", shared=False, batch_tokens=30_000)
    score(apart, asked[:4])
    assert apart.tokens_read == sum(len(one.context) + 2 for one in asked[:4])


def test_a_short_common_beginning_is_read_again() -> None:
    start = drawn(0, SHORTEST_SHARED - 1)
    asked = [Continuation(np.concatenate([start, drawn(n, 10)]), drawn(9, 1)) for n in (1, 2, 3)]
    again = reader("titans")
    score(again, asked)
    assert again.tokens_read == 3 * (SHORTEST_SHARED + 9)


def test_batches_keep_to_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [Text(drawn(n, length), length - 1, n) for n, length in enumerate([9, 30, 30, 12, 30])]

    def lengths(equal: bool = False, **options) -> list[list[int]]:
        batches = reader("titans", **options).read_prefixes(texts, equal=equal)
        return [[len(text.tokens) for text in batch.texts] for batch in batches]

    assert lengths(batch_tokens=60) == [[30, 30], [30], [12, 9]]  # 12 beside 30 is mostly filling
    assert lengths(batch_rows=2) == [[30, 30], [30], [12, 9]]
    assert lengths() == [[30, 30, 30], [12, 9]]
    assert lengths(equal=True) == [[30, 30, 30], [12], [9]]
    free = 2 * build("titans").state_bytes(2, 30)  # for two sequences, and for copying them
    monkeypatch.setattr(prefixes, "free_memory", lambda device: free)
    assert lengths() == [[30, 30], [30], [12, 9]]


def test_a_cache_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_use, "free_memory", lambda device: 1000)
    with pytest.raises(DoesNotFit, match="30 tokens need"):
        score(reader("transformer"), [Continuation(drawn(0, 30), drawn(1, 1))])


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context 0 is empty"):
        score(reader("titans"), [Continuation(drawn(0, 0), drawn(1, 1))])
