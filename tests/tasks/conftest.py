"""What the tests of text tasks share: tokenizers and some background text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas_bench.tasks.babi import PERSON_NAMES
from atlas_bench.tasks.ruler.task import RulerSettings, RulerTask
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.text.corpora import load_corpus, sentences
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield shared_tokenizer()


@pytest.fixture(scope="session")
def noise(tokenizer: Tokenizer) -> NoisePool:
    """The first three books of the training text."""
    books = sentences(load_corpus(), PERSON_NAMES)[:3]
    return NoisePool.from_sentences(books, tokenizer)


@pytest.fixture(scope="session")
def ruler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RulerTask]:
    """All thirteen tasks of RULER over the embedded text, the first three books to train on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(tmp_path_factory.mktemp("ruler")))
        task = RulerTask(RulerSettings(), TextSettings(), seed=0, question_every=60)
        books = sentences(load_corpus())[:3]  # to train on; all of it takes seconds to tokenise
        task._loaded_essays["train"] = NoisePool.from_sentences(books, task.tokenizer)
        yield task
