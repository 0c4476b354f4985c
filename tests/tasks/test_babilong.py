"""BABILong: scoring parity, exact lengths, undamaged facts and noise, and training streams."""

from __future__ import annotations

import csv
import itertools
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atlas_bench.tasks.babi import LABELS, PERSON_NAMES, SUBTASKS, Question
from atlas_bench.tasks.babilong import (
    Sample,
    StreamGenerator,
    babilong_tokenizer,
    build_sample,
    context_tokens,
    evaluation_samples,
    exact_match,
    format_length,
    load_noise,
    parse_length,
    published_metric,
)
from atlas_bench.tasks.babilong_askers import ASKERS
from atlas_bench.tasks.babilong_noise import NoisePool, seeded
from atlas_bench.tasks.babilong_sources import SourceError, hub_repository, hub_samples
from atlas_bench.tasks.babilong_stream import Stream
from atlas_bench.text.corpora import load_corpus, sentences
from atlas_bench.text.tokenizer import Tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PREDICTIONS = SHARED / "babilong_predictions"
PLACES = LABELS["qa1"]
FACTS = ("Mary moved to the office.", "John went to the garden.", "Mary went to the kitchen.")
QUESTION = Question(FACTS, "Where is Mary? ", "kitchen", (2,))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield babilong_tokenizer()


@pytest.fixture(scope="module")
def noise(tokenizer: Tokenizer) -> NoisePool:
    """The first three books of the training text."""
    books = sentences(load_corpus(), PERSON_NAMES)[:3]
    return NoisePool.from_sentences(books, tokenizer)


def tiny_pool() -> NoisePool:
    """Two books of sentences of 3, 4, 5 and 2, 6 tokens; token values count up from 0."""
    offsets = np.array([0, 3, 7, 12, 14, 20])
    return NoisePool(np.arange(20, dtype=np.int32), offsets, np.array([0, 3]))


# --- scoring ----------------------------------------------------------------------------------


def _expected_accuracies() -> list[tuple[str, float]]:
    if not PREDICTIONS.is_dir():
        return []
    with open(PREDICTIONS / "expected.csv", newline="", encoding="utf-8") as file:
        return [
            (row["task_length"], float(row["accuracy_percent"])) for row in csv.DictReader(file)
        ]


@pytest.mark.skipif(not PREDICTIONS.is_dir(), reason=f"no recorded predictions at {PREDICTIONS}")
@pytest.mark.parametrize(("name", "expected"), _expected_accuracies())
def test_published_metric_on_recorded_predictions(name: str, expected: float) -> None:
    (path,) = PREDICTIONS.glob(f"*/{name}.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    subtask = name.split("_")[0]
    correct = sum(
        published_metric(
            subtask,
            target=row["target"],
            output=row["output"] or "",
            question=row["question"] or "",
        )
        for row in rows
    )
    assert round(100 * correct / len(rows), 2) == expected


@pytest.mark.parametrize(
    ("subtask", "target", "output", "question", "correct"),
    [
        ("qa1", "office", "Mary is in the OFFICE. Not the garden", "Where is Mary? ", True),
        ("qa1", "office", "office or garden", "Where is Mary? ", False),
        ("qa1", "office", "", "Where is Mary? ", False),
        ("qa1", "office", "office <context> garden", "Where is Mary? ", True),
        ("qa1", "office", "office <example> garden", "Where is Mary? ", True),
        ("qa3", "office", "in the office before the garden", "before the garden? ", True),
        ("qa4", "office", "kitchen", "What is north of the office?", False),
        ("qa7", "none", "none", "How many objects is Mary carrying? ", False),
        ("qa7", "one", "none", "How many objects is Mary carrying? ", False),
        ("qa7", "one", "one", "How many objects is Mary carrying? ", True),
        ("qa6", "no", "I do not know", "Is Mary in the office? ", True),
        ("qa8", "apple,milk", "milk and apple", "What is Mary carrying? ", True),
        ("qa8", "apple,milk", "milk, apple, football", "What is Mary carrying? ", False),
        ("qa8", "apple,milk", "milk", "What is Mary carrying? ", False),
        ("qa8", "nothing", "nothing", "What is Mary carrying? ", True),
        ("qa19", "e,n", "e,n", "How do you go?", True),
        ("qa19", "e,n", "e, n", "How do you go?", False),
        ("qa5", "Bill", "bill gave it", "Who gave the milk? ", True),
    ],
)
def test_published_metric_quirks(
    subtask: str, target: str, output: str, question: str, correct: bool
) -> None:
    found = published_metric(subtask, target=target, output=output, question=question)
    assert found is correct


def test_published_metric_refuses_an_unknown_subtask() -> None:
    with pytest.raises(ValueError, match="subtask: 'qa21'"):
        published_metric("qa21", target="a", output="a", question="")


def test_exact_match_is_strict_and_ordered() -> None:
    assert exact_match("office", " Office\n")
    assert exact_match("none", "none")
    assert exact_match("apple,milk", "apple, milk")
    assert not exact_match("apple,milk", "milk,apple")
    assert not exact_match("office", "the office")
    assert not exact_match("office", "office.")


# --- background text --------------------------------------------------------------------------


def test_pool_tokenises_with_a_space_and_leaves_short_and_long_out(tokenizer: Tokenizer) -> None:
    books = [["And God said.", "And the evening and the morning were the first day."], ["So."]]
    pool = NoisePool.from_sentences(books, tokenizer, min_tokens=6)
    assert pool.tokens.tolist() == tokenizer.encode(" " + books[0][1])
    assert len(pool) == 1 and pool.book_starts.tolist() == [0]
    longest = len(tokenizer.encode(" " + books[0][0]))
    pool = NoisePool.from_sentences(books, tokenizer, min_tokens=1, max_tokens=longest)
    assert len(pool) == 2 and pool.book_starts.tolist() == [0, 1]
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
        assert taken.bounds[0] == 0 and taken.bounds[-1] == budget
        wanted = [i for i in range(1, budget) if (first + i) % 20 in inner]
        assert taken.bounds[1:-1].tolist() == wanted
    assert starts == {0, 3, 7, 12, 14}


def test_no_budget_no_noise() -> None:
    taken = tiny_pool().take(-5, random.Random(0))
    assert len(taken.tokens) == 0 and taken.sentence_count == 0


def test_loaded_noise_names_nobody_and_keeps_the_split(tokenizer: Tokenizer) -> None:
    pool = load_noise(tokenizer, split="test")
    text = tokenizer.decode(pool.tokens)
    assert not any(f" {name} " in text for name in PERSON_NAMES)
    train_text = "\n".join(book.text for book in load_corpus(split="train").books)
    assert tokenizer.decode(pool.tokens[: pool.offsets[1]]).strip() not in train_text


# --- lengths ----------------------------------------------------------------------------------


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


# --- samples ----------------------------------------------------------------------------------


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
    assert share[:, 0].min() < 0.01 and share[:, 2].max() > 0.98


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
        asked = dict(subtask=subtask, target=sample.answer, question=sample.question)
        assert exact_match(sample.answer, tokenizer.decode(sample.answer_ids))
        quirk = subtask == "qa7" and sample.answer == "none"
        output = tokenizer.decode(sample.answer_ids).strip()
        assert published_metric(**asked, output=output) is not quirk


@pytest.mark.parametrize("subtask", sorted(ASKERS))
def test_answers_follow_from_the_facts(
    subtask: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    for sample in evaluation_samples(subtask, "0k", 40, 1, noise=noise, tokenizer=tokenizer):
        asker = ASKERS[subtask](PLACES)
        for fact in sample.facts:
            asker.read(fact)
        known = {}
        for seed in range(200):
            known.update(asker.candidates(random.Random(seed)))
        assert known[sample.question.strip()] == sample.answer


def test_long_stories_are_redrawn_to_fit(tokenizer: Tokenizer, noise: NoisePool) -> None:
    samples = list(evaluation_samples("qa3", "1k", 30, 0, noise=noise, tokenizer=tokenizer))
    assert max(len(sample.facts) for sample in samples) <= 700 // 8 - 1
    assert len({sample.facts for sample in samples}) == 30


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


# --- published sets ---------------------------------------------------------------------------


class _FakeHub:
    """Stands in for the datasets package; serves a real local Dataset or an error."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str, str]] = []

    def load_dataset(self, repository: str, length: str, *, split: str) -> object:
        self.calls.append((repository, length, split))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _published_rows(columns: tuple[str, ...] = ("input", "question", "target")) -> object:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = {name: [f"{name} {i}" for i in range(5)] for name in columns}
    return datasets.Dataset.from_dict(rows)


def test_hub_samples_come_in_order(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _FakeHub(_published_rows())
    monkeypatch.setitem(sys.modules, "datasets", hub)
    samples = list(
        evaluation_samples("qa2", "4k", 3, 0, noise=None, tokenizer=tokenizer, source="hub")
    )
    assert hub.calls == [("RMT-team/babilong", "4k", "qa2")]
    assert [sample.answer for sample in samples] == ["target 0", "target 1", "target 2"]
    assert tokenizer.decode(samples[1].context_ids) == " input 1"
    assert samples[1].question == "question 1" and samples[1].facts == ()
    later = list(hub_samples("qa2", "4k", 9, tokenizer=tokenizer, first=3))
    assert [sample.answer for sample in later] == ["target 3", "target 4"]


def test_the_larger_set_is_used_where_it_exists() -> None:
    assert hub_repository("qa1", "128k", 1000).endswith("1k-samples")
    assert hub_repository("qa20", "0k", 1000).endswith("1k-samples")
    assert hub_repository("qa1", "256k", 1000).endswith("/babilong")
    assert hub_repository("qa6", "4k", 1000).endswith("/babilong")
    assert hub_repository("qa1", "4k", 100).endswith("/babilong")


def test_hub_failures_are_one_sentence(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    incomplete = _FakeHub(_published_rows(("input", "target")))
    monkeypatch.setitem(sys.modules, "datasets", _FakeHub(OSError("offline\ntrace")))
    with pytest.raises(SourceError, match=r"task\.source: .*qa1 at 4k.*OSError: offline") as error:
        hub_samples("qa1", "4k", 1, tokenizer=tokenizer)
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "datasets", incomplete)
    with pytest.raises(SourceError, match="no column question"):
        hub_samples("qa1", "4k", 1, tokenizer=tokenizer)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match="needs the package datasets"):
        hub_samples("qa1", "4k", 1, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"task\.lengths: '3k'"):
        hub_samples("qa1", "3k", 1, tokenizer=tokenizer)


# --- training streams -------------------------------------------------------------------------


def noise_of_tokens(stream: Stream) -> np.ndarray:
    """The noise mask of every token; the first is no target, but no sentence is one token long."""
    return np.concatenate([stream.noise_mask[:1], stream.noise_mask])


def read_stream(
    stream: Stream, tokenizer: Tokenizer
) -> tuple[list[str | tuple[str, str]], np.ndarray]:
    """Facts as text and questions as (question, answer), in order; and the noise tokens."""
    tokens, is_noise = stream.tokens, noise_of_tokens(stream)
    told: list[str | tuple[str, str]] = []
    text: list[int] = []
    answer: list[int] | None = None
    for token in tokens[~is_noise].tolist():
        if token == tokenizer.answer_id:
            answer = []
        elif token == tokenizer.end_id:
            told.append((tokenizer.decode(text).strip(), tokenizer.decode(answer).strip()))
            text, answer = [], None
        elif answer is not None:
            answer.append(token)
        else:
            text.append(token)
            if tokenizer.decode([token]) == ".":
                told.append(tokenizer.decode(text).strip())
                text = []
    return told, tokens[is_noise]


def make_streams(
    tokenizer: Tokenizer, noise: NoisePool, subtask: str | list[str], count: int, **options: object
) -> list[Stream]:
    settings: dict[str, object] = {"length_tokens": 2048, "noise_share": 0.8, **options}
    generator = StreamGenerator(subtask, noise, tokenizer, **settings)
    return list(itertools.islice(generator, count))


@pytest.mark.parametrize("subtask", SUBTASKS)
@pytest.mark.parametrize("noise_share", [0.0, 0.5, 0.99])
def test_stream_shapes_and_masks(
    subtask: str, noise_share: float, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    for stream in make_streams(tokenizer, noise, subtask, 3, noise_share=noise_share):
        assert stream.tokens.shape == (2049,) and stream.tokens.dtype == np.int32
        assert stream.answer_mask.shape == stream.noise_mask.shape == (2048,)
        assert not (stream.answer_mask & stream.noise_mask).any()
        inside, wanted = False, []
        for token, following in itertools.pairwise(stream.tokens.tolist()):
            inside = (inside and token != tokenizer.end_id) or token == tokenizer.answer_id
            wanted.append(inside)
            assert (following == tokenizer.end_id) <= inside
        assert stream.answer_mask.tolist() == wanted
        assert any(wanted)
        if noise_share == 0:
            assert not stream.noise_mask.any()
        else:
            # a story that must be told whole may take more than its share
            least = min(noise_share, 1 - 400 / 2048) - 0.05
            assert least <= stream.noise_mask.mean() <= noise_share + 0.06


@pytest.mark.parametrize("noise_share", [0.5, 0.9])
def test_stream_noise_is_one_uncut_passage(
    noise_share: float, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    for stream in make_streams(tokenizer, noise, "qa1", 4, noise_share=noise_share):
        passage = read_stream(stream, tokenizer)[1]
        starts = noise.offsets[:-1]
        doubled = np.concatenate([noise.tokens, noise.tokens])
        assert any(
            np.array_equal(doubled[start : start + len(passage)], passage) for start in starts
        )


@pytest.mark.parametrize("subtask", sorted(ASKERS))
@pytest.mark.parametrize("noise_share", [0.0, 0.9])
def test_stream_answers_are_true(
    subtask: str, noise_share: float, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    asked = 0
    for stream in make_streams(tokenizer, noise, subtask, 6, noise_share=noise_share):
        asker = ASKERS[subtask](PLACES)
        for item in read_stream(stream, tokenizer)[0]:
            if isinstance(item, str):
                asker.read(item)
                continue
            known = {}
            for seed in range(300):
                known.update(asker.candidates(random.Random(seed)))
            assert known[item[0]] == item[1]
            asked += 1
    assert asked >= 12


def test_short_stories_are_asked_about_while_they_hold(
    tokenizer: Tokenizer, noise: NoisePool
) -> None:
    opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
    asked = 0
    for stream in make_streams(tokenizer, noise, "qa4", 6):
        known: dict[str, str] = {}
        facts: list[str] = []
        for item in read_stream(stream, tokenizer)[0]:
            if isinstance(item, str):
                facts = [*facts, item][-2:]
                continue
            for fact in facts:
                _, left, _, side, _, _, right = fact.rstrip(".").split()
                for a, way, b in ((left, side, right), (right, opposite[side], left)):
                    known[f"What is {way} of the {b}?"] = a
                    known[f"What is the {b} {opposite[way]} of?"] = a
            assert known[item[0]] == item[1]
            known.clear()
            asked += 1
    assert asked > 50


def test_stream_depends_on_seed_and_index_alone(tokenizer: Tokenizer, noise: NoisePool) -> None:
    def generator(seed: int) -> StreamGenerator:
        names = ["qa1", "qa2", "qa4", "qa5"]
        return StreamGenerator(names, noise, tokenizer, length_tokens=1000, seed=seed)

    straight = list(itertools.islice(generator(0), 6))
    other = generator(0)
    for index in (5, 0, 3, 5):
        assert np.array_equal(other.stream(index).tokens, straight[index].tokens)
    assert not np.array_equal(generator(1).stream(0).tokens, straight[0].tokens)
    assert not np.array_equal(straight[0].tokens, straight[1].tokens)
    batch = other.batch(2, 3)
    assert batch.tokens.shape == (3, 1001) and batch.answer_mask.shape == (3, 1000)
    assert np.array_equal(batch.tokens[1], straight[3].tokens)


def question_positions(stream: Stream, tokenizer: Tokenizer) -> np.ndarray:
    return np.flatnonzero(stream.tokens == tokenizer.answer_id)


@pytest.mark.parametrize("subtask", ["qa1", "qa2", "qa5"])
@pytest.mark.parametrize("every", [256, 1024])
def test_questions_come_as_often_as_wished(
    subtask: str, every: int, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    streams = make_streams(
        tokenizer, noise, subtask, 4, length_tokens=8192, noise_share=0.7, question_every=every
    )
    counts = [len(question_positions(stream, tokenizer)) for stream in streams]
    assert all(0.7 <= count * every / 8192 <= 1.3 for count in counts), counts


@pytest.mark.parametrize("subtask", ["qa1", "qa2", "qa5"])
def test_long_silences_before_questions_are_common(
    subtask: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    silences = []
    ends = {tokenizer.end_id, *tokenizer.encode(".")}
    for stream in make_streams(tokenizer, noise, subtask, 8, length_tokens=8192, noise_share=0.95):
        is_noise = noise_of_tokens(stream)
        for position in question_positions(stream, tokenizer):
            start = position
            while start and not is_noise[start - 1] and stream.tokens[start - 1] not in ends:
                start -= 1
            silence = start
            while silence and is_noise[silence - 1]:
                silence -= 1
            silences.append(start - silence)
    assert np.mean(np.array(silences) > 200) > 0.2


def test_streams_ask_about_facts_far_behind(tokenizer: Tokenizer, noise: NoisePool) -> None:
    distances = []
    for stream in make_streams(tokenizer, noise, "qa1", 8, length_tokens=8192, noise_share=0.95):
        since: dict[str, int] = {}
        for position, item in enumerate(read_stream(stream, tokenizer)[0]):
            if isinstance(item, str):
                since[item.split()[0]] = position
            else:
                distances.append(position - since[item[0].rstrip("?").split()[-1]])
    assert np.mean(np.array(distances) >= 5) > 0.25


def test_several_noise_shares_are_mixed(tokenizer: Tokenizer, noise: NoisePool) -> None:
    streams = make_streams(tokenizer, noise, "qa1", 12, noise_share=[0.2, 0.9])
    shares = [stream.noise_mask.mean() for stream in streams]
    assert min(shares) < 0.3 and max(shares) > 0.8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise_share": 1.0}, "noise_share: 1.0"),
        ({"noise_share": []}, "noise_share"),
        ({"length_tokens": 0}, "length_tokens: 0"),
        ({"question_every": 0}, "question_every: 0"),
        ({"subtasks": "qa99"}, "subtasks: .*qa99"),
        ({"subtasks": []}, "subtasks: none given"),
    ],
)
def test_bad_stream_options_are_named(
    change: dict[str, object], words: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    options = {"subtasks": "qa1", "length_tokens": 100} | change
    with pytest.raises(ValueError, match=words):
        StreamGenerator(options.pop("subtasks"), noise, tokenizer, **options)


def test_a_stream_too_short_for_a_story_says_so(tokenizer: Tokenizer, noise: NoisePool) -> None:
    generator = StreamGenerator("qa3", noise, tokenizer, length_tokens=20)
    with pytest.raises(ValueError, match="length_tokens: 20 is too short for a story of qa3"):
        generator.stream(0)
