"""What the BABILong tests share: one tokenizer and some background text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas_bench.tasks.babi import PERSON_NAMES
from atlas_bench.tasks.babilong import babilong_tokenizer
from atlas_bench.tasks.babilong_noise import NoisePool
from atlas_bench.text.corpora import load_corpus, sentences
from atlas_bench.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield babilong_tokenizer()


@pytest.fixture(scope="session")
def noise(tokenizer: Tokenizer) -> NoisePool:
    """The first three books of the training text."""
    books = sentences(load_corpus(), PERSON_NAMES)[:3]
    return NoisePool.from_sentences(books, tokenizer)
