"""BABILong samples: exact lengths, undamaged facts and noise, seeds, and errors."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest

from atlas_bench.seeding import seeded
from atlas_bench.tasks.babi import (
    LABELS,
    PERSON_NAMES,
    SUBTASKS,
    Question,
    generate_questions,
    solve,
)
from atlas_bench.tasks.babilong.metrics import exact_match, published_metric
from atlas_bench.tasks.babilong.sample import Sample
from atlas_bench.tasks.babilong.samples import build_sample, evaluation_samples
from atlas_bench.tasks.lengths import context_tokens, format_length, parse_length
from atlas_bench.text.corpora import load_corpus
from atlas_bench.text.noise import NoisePool, load_noise
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer

FACTS = ("Mary moved to the office.", "John went to the garden.", "Mary went to the kitchen.")
QUESTION = Question(FACTS, "Where is Mary? ", "kitchen", (2,))


def tiny_pool() -> NoisePool:
    """Two books of sentences of 3, 4, 5 and 2, 6 tokens; token values count up from 0."""
    offsets = np.array([0, 3, 7, 12, 14, 20])
    return NoisePool(np.arange(20, dtype=np.int32), offsets, np.array([0, 3]))


def test_pool_tokenises_with_a_space_and_leaves_short_sentences_out(tokenizer: Tokenizer) -> None:
    books = [["And God said.", "And the evening and the morning were the first day."], ["So."]]
    pool = NoisePool.from_sentences(books, tokenizer, min_tokens=6)
    assert pool.tokens.tolist() == tokenizer.encode(" " + books[0][1])
    assert len(pool) == 1
    assert pool.book_starts.tolist() == [0]
    pool = NoisePool.from_sentences(books, tokenizer, min_tokens=1)
    assert len(pool) == 3
    assert pool.book_starts.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"text\.source"):
        NoisePool.from_sentences([["So."]], tokenizer)


@pytest.mark.parametrize("budget", [1, 3, 4, 11, 20, 21, 75])
def test_taken_noise_is_consecutive_exact_and_wraps(budget: int) -> None:
    pool = tiny_pool()
    starts = set()
    for seed in range(60):
        taken = pool.take(budget, random.Random(seed))
        first = int(taken.tokens[0])
        starts.add(first)
        assert taken.tokens.tolist() == [(first + i) % 20 for i in range(budget)]
        inner = {bound % 20 for bound in pool.offsets.tolist()}
        assert taken.bounds[0] == 0
        assert taken.bounds[-1] == budget
        wanted = [i for i in range(1, budget) if (first + i) % 20 in inner]
        assert taken.bounds[1:-1].tolist() == wanted
    assert starts == {0, 3, 7, 12, 14}


def test_no_budget_no_noise() -> None:
    taken = tiny_pool().take(-5, random.Random(0))
    assert len(taken.tokens) == 0
    assert taken.sentence_count == 0


def test_loaded_noise_names_nobody_and_keeps_the_split(tokenizer: Tokenizer) -> None:
    pool = load_noise(TextSettings(), "test", tokenizer, without_names=PERSON_NAMES)
    text = tokenizer.decode(pool.tokens)
    assert not any(f" {name} " in text for name in PERSON_NAMES)
    train_text = "\n".join(book.text for book in load_corpus(split="train").books)
    assert tokenizer.decode(pool.tokens[: pool.offsets[1]]).strip() not in train_text


@pytest.mark.parametrize(
    ("length", "public", "finetuning"),
    [
        ("0k", 0, 0),
        ("1k", 700, 1004),
        ("16k", 15_700, 16_364),
        ("1M", 999_700, 1_048_556),
        ("10M", 9_999_700, 10_485_740),
        ("512", 212, 492),
        (4000, 3700, 3980),
    ],
)
def test_context_tokens_of_both_conventions(
    length: str | int, public: int, finetuning: int
) -> None:
    assert context_tokens(length) == public
    assert context_tokens(length, "finetuning") == finetuning


@pytest.mark.parametrize("name", ["0k", "1k", "512k", "1M", "10M", "300"])
@pytest.mark.parametrize("convention", ["public", "finetuning"])
def test_length_names_survive(name: str, convention: str) -> None:
    assert format_length(parse_length(name, convention), convention) == name


@pytest.mark.parametrize("length", ["", "k", "-1k", "1.5k", "16kb", "long"])
def test_bad_length_names_the_key(length: str) -> None:
    with pytest.raises(ValueError, match=r"task\.lengths"):
        parse_length(length)


def test_length_within_the_allowance_and_bad_convention_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.lengths: 300 .*public"):
        context_tokens("300")
    with pytest.raises(ValueError, match=r"task\.length_convention: 'pubic'.*public, finetuning"):
        context_tokens("1k", "pubic")


def split_sample(sample: Sample, tokenizer: Tokenizer) -> tuple[list[str], np.ndarray]:
    """The facts found at their positions, and everything else."""
    keep = np.ones(len(sample.context_ids), dtype=bool)
    found = []
    for fact, start in zip(sample.facts, sample.fact_token_positions, strict=True):
        end = start + len(tokenizer.encode(" " + fact))
        found.append(tokenizer.decode(sample.context_ids[start:end]))
        keep[start:end] = False
    return found, sample.context_ids[keep]


@pytest.mark.parametrize("length", [30, 100, 1000, 20_000])
def test_sample_is_exact_and_nothing_in_it_is_damaged(
    tokenizer: Tokenizer, noise: NoisePool, length: int
) -> None:
    for seed in range(20):
        rng = random.Random(seed)
        sample = build_sample("qa1", QUESTION, noise, tokenizer, length, rng)
        assert sample.length_tokens == len(sample.context_ids) == length
        assert sample.context_ids.dtype == np.int32
        facts, rest = split_sample(sample, tokenizer)
        assert facts == [" " + fact for fact in FACTS]
        assert rest.tolist() == noise.take(len(rest), random.Random(seed)).tokens.tolist()
        boundaries = set(noise.take(len(rest), random.Random(seed)).bounds.tolist())
        before = np.cumsum([0, *(len(tokenizer.encode(" " + fact)) for fact in FACTS[:-1])])
        assert set((sample.fact_token_positions - before).tolist()) <= boundaries
    assert tokenizer.decode(sample.question_ids) == " Where is Mary?"
    assert tokenizer.decode(sample.answer_ids) == " kitchen"


def test_facts_are_spread_uniformly(tokenizer: Tokenizer, noise: NoisePool) -> None:
    rng = random.Random(0)
    samples = [build_sample("qa1", QUESTION, noise, tokenizer, 4000, rng) for _ in range(300)]
    share = np.array([sample.fact_token_positions for sample in samples]) / 4000
    # the order statistics of three uniform draws have the means 1/4, 2/4, 3/4
    assert np.allclose(share.mean(axis=0), [0.25, 0.5, 0.75], atol=0.04)
    assert share[:, 0].min() < 0.01
    assert share[:, 2].max() > 0.98


def test_zero_length_means_facts_alone(tokenizer: Tokenizer, noise: NoisePool) -> None:
    sample = build_sample("qa1", QUESTION, noise, tokenizer, 0, random.Random(0))
    assert tokenizer.decode(sample.context_ids) == " " + " ".join(FACTS)


def test_facts_longer_than_the_context_are_refused(tokenizer: Tokenizer, noise: NoisePool) -> None:
    with pytest.raises(ValueError, match="facts take"):
        build_sample("qa1", QUESTION, noise, tokenizer, 10, random.Random(0))


def as_lists(samples: Iterator[Sample]) -> list[tuple[list[int], str, str]]:
    return [(sample.context_ids.tolist(), sample.question, sample.answer) for sample in samples]


def test_samples_depend_on_seed_and_index_alone(tokenizer: Tokenizer, noise: NoisePool) -> None:
    def drawn(count: int, seed: int, first: int = 0, length: str = "1k") -> list[object]:
        return as_lists(
            evaluation_samples(
                "qa1", length, count, seed, noise=noise, tokenizer=tokenizer, first=first
            )
        )

    ten = drawn(10, seed=3)
    assert drawn(4, seed=3, first=6) == ten[6:]
    assert drawn(10, seed=4) != ten
    assert [row[1:] for row in drawn(10, seed=3, length="2k")] != [row[1:] for row in ten]
    assert len({str(row) for row in ten}) == 10


def test_seeding_is_the_same_on_every_machine() -> None:
    assert seeded(3, "qa1", 1000, 0).randrange(10**9) == 875_237_613
    assert seeded("a", "b").random() != seeded("ab").random()


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_every_word_of_a_world_is_one_token(subtask: str, tokenizer: Tokenizer) -> None:
    for label in LABELS[subtask]:
        if "," not in label:
            spellings = {" " + label, " " + label.capitalize()}
            assert min(len(tokenizer.encode(spelling)) for spelling in spellings) == 1, label
    for question in itertools.islice(generate_questions(subtask, random.Random(99)), 20):
        for sentence in (*question.facts, question.question.strip()):
            words = re.findall(r"[\w']+|[^\w\s]", sentence)
            assert len(tokenizer.encode(" " + sentence)) == len(words), sentence
        assert len(tokenizer.encode(" " + question.answer)) == 1 + 2 * question.answer.count(",")


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_every_subtask_at_two_lengths(subtask: str, tokenizer: Tokenizer, noise: NoisePool) -> None:
    alone, mixed = (
        list(evaluation_samples(subtask, length, 5, 0, noise=noise, tokenizer=tokenizer))
        for length in ("0k", "4k")
    )
    for sample in alone:
        assert tokenizer.decode(sample.context_ids) == " " + " ".join(sample.facts)
    for sample in mixed:
        assert sample.length_tokens == 3700
        assert len(sample.facts) + 1 <= 3700 // 8
        assert split_sample(sample, tokenizer)[0] == [" " + fact for fact in sample.facts]
    for sample in alone + mixed:
        asked = {"subtask": subtask, "target": sample.answer, "question": sample.question}
        assert exact_match(sample.answer, tokenizer.decode(sample.answer_ids))
        quirk = subtask == "qa7" and sample.answer == "none"
        output = tokenizer.decode(sample.answer_ids).strip()
        assert published_metric(**asked, output=output) is not quirk


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_answers_follow_from_the_facts(
    subtask: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    for sample in evaluation_samples(subtask, "0k", 40, 1, noise=noise, tokenizer=tokenizer):
        assert solve(subtask, sample.facts, sample.question) == sample.answer


def test_long_stories_are_redrawn_to_fit(tokenizer: Tokenizer, noise: NoisePool) -> None:
    samples = list(evaluation_samples("qa3", "1k", 300, 0, noise=noise, tokenizer=tokenizer))
    assert max(len(sample.facts) for sample in samples) <= 700 // 8 - 1
    assert len({sample.facts for sample in samples}) == 300


def test_too_short_a_length_names_the_key(tokenizer: Tokenizer, noise: NoisePool) -> None:
    with pytest.raises(ValueError, match=r"task\.lengths: a context of 10 tokens .*qa3"):
        next(evaluation_samples("qa3", "310", 1, 0, noise=noise, tokenizer=tokenizer))


def test_unknown_names_are_refused_at_once(tokenizer: Tokenizer, noise: NoisePool) -> None:
    arguments = {"noise": noise, "tokenizer": tokenizer}
    with pytest.raises(ValueError, match=r"task\.subtasks: 'qa0'"):
        evaluation_samples("qa0", "1k", 1, 0, **arguments)
    with pytest.raises(ValueError, match=r"task\.source: 'web'"):
        evaluation_samples("qa1", "1k", 1, 0, source="web", **arguments)
    with pytest.raises(ValueError, match=r"task\.lengths"):
        evaluation_samples("qa1", "1g", 1, 0, **arguments)


def test_a_million_tokens_are_quick(tokenizer: Tokenizer, noise: NoisePool) -> None:
    started = time.perf_counter()
    samples = evaluation_samples("qa2", "1M", 3, 0, noise=noise, tokenizer=tokenizer)
    for sample in samples:
        assert sample.length_tokens == 999_700
        assert split_sample(sample, tokenizer)[0] == [" " + fact for fact in sample.facts]
    assert time.perf_counter() - started < 10
