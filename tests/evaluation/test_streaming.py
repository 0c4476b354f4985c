"""Streaming: pieces change nothing, memory is checked before it is spent, peaks are per call."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
import torch

from atlas_bench.evaluation import memory_use
from atlas_bench.evaluation.memory_use import DoesNotFit, Meter
from atlas_bench.evaluation.streaming import Prompt, complete, generate
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings

SCALE = ScaleSettings(width=16, layers=2, heads=2)
MEMORY = ModelSettings(
    memory=MemorySettings(optimizer="momentum", chunk=8, bounded_step=True, gate="hard_sigmoid")
)
ATTENTION = ModelSettings(name="transformer", mixers=["attention"])


def build(settings: ModelSettings) -> LanguageModel:
    return build_model(settings, SCALE, vocab_size=32, seed=0).eval()


def prompts(lengths: list[int], seed: int = 0) -> list[Prompt]:
    drawn = np.random.default_rng(seed)
    return [
        Prompt(drawn.integers(0, 32, length, dtype=np.int32), np.array([3, 4], np.int32), index)
        for index, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("settings", [MEMORY, ATTENTION], ids=["memory", "attention"])
def test_pieces_and_batches_change_no_answer(settings: ModelSettings) -> None:
    model = build(settings)
    asked = prompts([40, 7, 40, 0, 7, 21])
    alone = [complete(model, [p], max_new=5, end_id=1, prefill_chunk=64)[0] for p in asked]
    for prefill_chunk, batch_tokens in ((64, 10**6), (5, 10**6), (8, 50), (3, 1)):
        found = generate(
            model,
            asked,
            max_new=5,
            end_id=1,
            prefill_chunk=prefill_chunk,
            batch_tokens=batch_tokens,
        )
        assert found.tokens == alone
        assert found.tokens_read == 40 + 7 + 40 + 7 + 21 + 6 * 2


def test_greedy_answers_are_the_models_own_and_stop_at_the_end_token() -> None:
    model = build(MEMORY)
    prompt = prompts([12])[0]
    (answer,) = complete(model, [prompt], max_new=6, end_id=-1, prefill_chunk=4)
    tokens = torch.tensor([[*prompt.context.tolist(), *prompt.question.tolist()]])
    with torch.no_grad():
        for expected in answer:
            hidden, _ = model(tokens)
            chosen = int(model.logits(hidden[:, -1]).argmax())
            assert chosen == expected
            tokens = torch.cat([tokens, torch.tensor([[chosen]])], 1)
    stop = answer[2]
    (cut,) = complete(model, [prompt], max_new=6, end_id=stop, prefill_chunk=4)
    assert cut == answer[: answer.index(stop)]


def test_a_cache_that_cannot_fit_is_refused_with_its_bytes(monkeypatch) -> None:
    monkeypatch.setattr(memory_use, "free_memory", lambda device: 100_000)
    model = build(ATTENTION)
    needed = model.state_bytes(1, 2000)
    with pytest.raises(DoesNotFit, match=f"2,000 tokens need {needed:,} bytes .* 100,000 are free"):
        generate(model, prompts([2000]), max_new=1, end_id=1, prefill_chunk=512, batch_tokens=1)
    recurrent = build(MEMORY)
    generate(recurrent, prompts([2000]), max_new=1, end_id=1, prefill_chunk=512, batch_tokens=1)


def test_the_peak_is_of_this_call_alone() -> None:
    """The memory comes from the system: the heap may have as much left from other tests."""
    with mmap.mmap(-1, 64 * 2**20) as earlier:  # gone before measuring starts
        fill(earlier)
    memory = Meter(torch.device("cpu"))
    start = memory.peak()
    with mmap.mmap(-1, 48 * 2**20) as block:
        fill(block)
        during = memory.peak()
    assert 40 * 2**20 < during - start < 60 * 2**20


def fill(block: mmap.mmap) -> None:
    for start in range(0, len(block), mmap.PAGESIZE):
        block[start] = 1
