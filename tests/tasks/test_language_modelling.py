"""Language modelling: what is a target, what a row holds, and what the scores are about."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atlas_bench.tasks.language_modelling import (
    LanguageModellingSettings,
    LanguageModellingTask,
    unigram_perplexity,
)
from atlas_bench.tasks.stages import LengthStage
from atlas_bench.tasks.task import LABELLED, TokenPredictions
from atlas_bench.tasks.windows import buckets, held_out_windows
from atlas_bench.text import documents
from atlas_bench.text.corpora import load_corpus, split_training
from atlas_bench.text.settings import TextSettings, check_text
from atlas_bench.text.tokenizer import Tokenizer

LENGTH = 64
STAGE = LengthStage(length=LENGTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of 8 to 203 words, no two alike; every eighth is held out."""
    path = tmp_path_factory.mktemp("documents")
    for number in range(40):
        words = " ".join(f"w{number}x{place}" for place in range(8 + 5 * number))
        (path / f"{number:02d}.txt").write_text(words)
    return path


def make(
    folder: Path, tokenizer: Tokenizer, *, seed: int = 0, **options: object
) -> LanguageModellingTask:
    # The tokenizer is asked for so that it is trained in the tests' own cache.
    task = LanguageModellingSettings(**{"lengths": ["64", "1k"], **options})
    text = TextSettings(source="folder", folder=str(folder))
    return task.make(text, seed=seed, question_every=1)


def test_rows_follow_the_stream_and_reset_where_documents_start(
    folder: Path, tokenizer: Tokenizer
) -> None:
    task = make(folder, tokenizer)
    assert task.kind == LABELLED
    rows = task._stream.mixed_tokens // LENGTH
    batch = task.batch(STAGE, 0, rows)
    assert {batch.inputs.dtype, batch.targets.dtype} == {np.dtype(np.int32)}
    assert np.array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    end = tokenizer.end_id
    assert np.array_equal(batch.starts, batch.inputs == end)
    assert np.array_equal(batch.answer_mask, batch.targets != end)
    assert batch.starts.sum() >= 30
    # Put back in the stream's order, rows hold every token of it once.
    stream = task._stream.take(0, rows * LENGTH + 1)
    order = {stream[at : at + LENGTH].tobytes(): at for at in range(0, rows * LENGTH, LENGTH)}
    found = [order[row.tobytes()] for row in np.ascontiguousarray(batch.inputs)]
    assert sorted(found) == list(range(0, rows * LENGTH, LENGTH))
    assert found != sorted(found)
    for row, at in zip(batch.targets, found, strict=True):
        assert row[-1] == stream[at + LENGTH]


def test_a_row_is_a_function_of_seed_and_index(folder: Path, tokenizer: Tokenizer) -> None:
    whole = make(folder, tokenizer).batch(STAGE, 0, 400)  # more than two passes
    task = make(folder, tokenizer)
    for first, count in ((390, 10), (3, 1), (77, 30)):  # in any order, by a task that is new
        part = task.batch(STAGE, first, count)
        assert np.array_equal(part.inputs, whole.inputs[first : first + count])
        assert np.array_equal(part.starts, whole.starts[first : first + count])
    other = make(folder, tokenizer, seed=1).batch(STAGE, 0, 400)
    assert not np.array_equal(other.inputs, whole.inputs)
    assert len({row.tobytes() for row in whole.inputs}) > 300


def test_memory_may_carry_on(folder: Path, tokenizer: Tokenizer) -> None:
    reset, carried = (
        make(folder, tokenizer, reset_at_documents=value).batch(STAGE, 0, 9)
        for value in (True, False)
    )
    assert carried.starts is None
    assert np.array_equal(carried.inputs, reset.inputs)
    assert np.array_equal(carried.answer_mask, reset.answer_mask)


@pytest.mark.parametrize("reset", [True, False])
def test_every_held_out_token_is_predicted_once_at_every_length(
    folder: Path, tokenizer: Tokenizer, reset: bool
) -> None:
    task = make(folder, tokenizer, reset_at_documents=reset)
    texts = [(folder / f"{number:02d}.txt").read_text() for number in range(7, 40, 8)]
    wanted = sorted(token for text in texts for token in tokenizer.encode(text))
    train = {token.tobytes() for token in task.batch(STAGE, 0, 500).inputs[:, 1:9]}
    for cell in task.cells():
        targets = []
        for batch in task.labelled_batches(cell):
            assert batch.inputs.shape[1] <= cell.tokens
            assert (batch.starts is None) != reset
            if reset:
                assert batch.starts[:, 0].all()
                assert batch.starts.sum() >= (batch.inputs == tokenizer.end_id).any(1).sum()
            targets += batch.targets[batch.answer_mask].tolist()
            windows = np.lib.stride_tricks.sliding_window_view(batch.inputs, 8, axis=1)
            assert not train & {w.tobytes() for w in windows.reshape(-1, 8)}
        assert sorted(targets) == wanted


@pytest.mark.parametrize("documents", [1, 4, 50])
def test_no_document_is_in_two_of_the_three_splits(
    folder: Path, tokenizer: Tokenizer, documents: int
) -> None:
    """Each word of the documents has its document's number in it."""
    task = make(folder, tokenizer, seed=documents)

    def numbers(tokens: np.ndarray) -> set[str]:
        """Of the documents that a piece of text is of; not of its first word, which may be cut."""
        return set(re.findall(r" w(\d+)x", tokenizer.decode(tokens.tolist())))

    def held_out(scored: LanguageModellingTask) -> set[str]:
        (batch,) = scored.labelled_batches(scored.cells()[1])
        return set().union(*map(numbers, batch.targets))

    rows = task.batch(STAGE, 0, 2 * task._stream.mixed_tokens // LENGTH)
    trained = set().union(*map(numbers, rows.inputs))
    tested, validated = held_out(task), held_out(task.validation(documents))
    # Every eighth of all to test on; of the 35 others every eighth to validate by.
    assert tested == {"7", "15", "23", "31", "39"}
    assert validated == set(["8", "17", "26", "35"][:documents])
    assert trained == {str(number) for number in range(40)} - tested - {"8", "17", "26", "35"}
    again = make(folder, tokenizer, seed=documents, **{"lengths": ["64", "1k"]})
    again.settings.seed = 7
    assert held_out(again.validation(documents)) == validated
    assert task.validation(0) is None


def test_one_document_is_cut_in_three(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = " ".join(f"Sentence number {place} ends." for place in range(400))
    (tmp_path / "only.txt").write_text(text)
    task = make(tmp_path, tokenizer, lengths=["64"])
    parts = [
        " ".join(book.text for book in corpus.books)
        for corpus in (
            split_training(load_corpus("folder", folder=tmp_path))[0],
            task.validation(9)._held_out,
            task._held_out,
        )
    ]
    assert " ".join(parts) == text
    assert [round(len(part) / len(text), 2) for part in parts] == [0.77, 0.11, 0.12]


def test_windows_are_placed_whole_in_few_rows() -> None:
    documents_ = [0, *range(10, 33)], [0, *range(40, 46)], [0, 50], [0, *range(60, 64)]
    tokens = np.array(sum(documents_, []), dtype=np.int32)
    begins = np.flatnonzero(tokens == 0)
    windows = held_out_windows(tokens, begins, 8, end_id=0)
    # 23 targets in windows of 8, 8 and 7, then 6, 4 and 1: five rows, two of them full.
    assert windows.inputs.shape == (5, 8)
    assert windows.full.tolist() == [True, True, False, False, False]
    assert windows.inputs[1].tolist() == list(range(17, 25))
    assert windows.targets[1].tolist() == list(range(18, 26))
    assert windows.starts.sum(1).tolist() == [1, 1, 2, 1, 1]
    assert windows.inputs[2].tolist() == [*range(25, 32), 0]
    assert windows.targets[2].tolist() == [*range(26, 33), 50]
    assert windows.answer_mask.sum() == 23 + 6 + 4 + 1


def test_scores_are_of_the_text_whatever_the_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    task = make(folder, tokenizer, lengths=["512"])
    (cell,) = task.cells()
    (batch,) = task.labelled_batches(cell)
    example, position = np.nonzero(batch.answer_mask)
    loss = np.where(position < 256, 2.0, 1.0).astype(np.float32)
    nothing = np.zeros(len(loss), dtype=np.int64)
    found = task.judge(cell, TokenPredictions(example, position, nothing, nothing, loss))
    value = {each.metric.name: each.value for each in found if each.cell == cell}
    texts = [(folder / f"{number:02d}.txt").read_text() for number in range(7, 40, 8)]
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    total = float(loss.sum())
    assert len(loss) == tokens
    assert value["perplexity"] == pytest.approx(math.exp(total / tokens))
    words = sum(len(re.split(r"\s+", text)) for text in texts)
    assert value["word_perplexity"] == pytest.approx(math.exp(total / words))
    size = sum(len(text) for text in texts)
    assert value["bits_per_byte"] == pytest.approx(total / size / math.log(2))
    assert all(each.correct is None for each in found)
    full = int(task._windows_of(512).full.sum())
    assert full >= 3
    by_position = {e.cell.subtask: e for e in found if e.metric.name == "position_loss"}
    assert {name: (e.value, e.samples) for name, e in by_position.items()} == {
        "0-255": (2.0, 256 * full), "256-511": (1.0, 256 * full),
    }  # fmt: skip
    for batch in task.labelled_batches(cell):
        for row in range(full):  # nothing but one window of one document
            assert batch.answer_mask[row].all()
            assert batch.starts[row].sum() == 1


def judged(task: LanguageModellingTask, loss: float) -> dict[str, float]:
    """The scores of a model with this loss at every token."""
    (cell,) = task.cells()
    (batch,) = task.labelled_batches(cell)
    example, position = np.nonzero(batch.answer_mask)
    nothing = np.zeros(len(example), dtype=np.int64)
    losses = np.full(len(example), loss, dtype=np.float32)
    found = task.judge(cell, TokenPredictions(example, position, nothing, nothing, losses))
    return {each.metric.name: each.value for each in found if each.cell == cell}


def test_a_text_without_spaces_has_no_word_perplexity(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Trust A6: it was e to the power of a paragraph's loss, which ended in OverflowError."""
    (tmp_path / "a.txt").write_text("日月山水火木金土。" * 300)
    task = make(tmp_path, tokenizer, lengths=["8k"])
    assert set(judged(task, 7.0)) == {"perplexity", "bits_per_byte"}
    assert "no white space" in task.protocol()["word_perplexity"]
    # Seven eighths, cut after a sentence; Devanagari words have spaces.
    assert 200 <= task.protocol()["held_out_characters"] <= 2700 / 8
    assert task._held_out.books[0].text.startswith("日月")
    (tmp_path / "a.txt").write_text("दिन भर काम किया। " * 300)
    assert "word_perplexity" in judged(make(tmp_path, tokenizer, lengths=["8k"]), 7.0)


def test_a_text_without_spaces_and_marks_has_a_held_out_part(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "a.txt").write_text("สวัสดี" * 300)
    text = make(tmp_path, tokenizer)._held_out.books[0].text
    assert len(text) in (224, 225)
    assert text[0] not in "\u0e31\u0e34"  # marks above the letter before them


def test_a_diverged_model_has_an_infinite_perplexity(folder: Path, tokenizer: Tokenizer) -> None:
    """Trust A6: not an OverflowError after training; the record makes it a note."""
    scores = judged(make(folder, tokenizer, lengths=["1k"]), 1e4)
    assert scores["perplexity"] == scores["word_perplexity"] == math.inf
    assert math.isfinite(scores["bits_per_byte"])


def test_held_out_text_is_cut_by_characters(folder: Path, tokenizer: Tokenizer) -> None:
    task = make(folder, tokenizer, held_out_characters=500)
    protocol = task.protocol()
    assert protocol["held_out_characters"] == 500
    assert protocol["documents"] == "2 whole, each behind an end token"
    first = (folder / "07.txt").read_text()
    (batch,) = task.labelled_batches(task.cells()[1])
    row = np.flatnonzero((batch.inputs[0] == tokenizer.end_id) & batch.starts[0])
    text = tokenizer.decode(batch.targets[0][batch.answer_mask[0]])
    assert len(row) == 2
    assert text.endswith(first) or text.startswith(first)
    assert len(text) == 500


def test_buckets_double() -> None:
    assert list(buckets(2048)) == [(0, 256), (256, 512), (512, 1024), (1024, 2048)]
    assert list(buckets(300)) == [(0, 256), (256, 300)]


def test_unigram_perplexity() -> None:
    assert unigram_perplexity(np.array([1, 2, 3, 4])) == pytest.approx(4)
    assert unigram_perplexity(np.array([1, 1, 2, 2, 1, 1])) == pytest.approx(
        math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    )


class FakeHub:
    """Stands in for the datasets package; counts what is read."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.read = texts, []

    def load_dataset(self, name: str, subset: str, **options: object) -> FakeHub:
        assert (name, subset) == ("some/set", "sample")
        assert options == {"split": "train", "revision": "abc", "streaming": True}
        return self

    def skip(self, count: int) -> Iterator[dict[str, str]]:
        for number, text in enumerate(self.texts[count:], count):
            self.read.append(number)
            yield {"text": text}


def test_a_stream_gives_the_same_rows_after_a_restart(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(f"w{n}x{place}" for place in range(20)) for n in range(60)]
    settings = LanguageModellingSettings(lengths=["64"])
    text = TextSettings(
        source="stream", dataset="some/set", subset="sample", revision="abc",
        tokenizer=str(tokenizer.save(tmp_path)),
    )  # fmt: skip
    monkeypatch.setattr(documents, "HELD_OUT_DOCUMENTS", 8)
    monkeypatch.setattr(documents, "DOCUMENTS_A_BLOCK", 8)

    def rows(cache: str, first: int, count: int) -> tuple[np.ndarray, list[int], object]:
        hub = FakeHub(texts)
        monkeypatch.setitem(sys.modules, "datasets", hub)
        monkeypatch.setenv("ATLAS_BENCH_CACHE", str(tmp_path / cache))
        task = settings.make(text, seed=0, question_every=1)
        return task.batch(STAGE, first, count).inputs, hub.read, task

    whole, read, task = rows("one", 0, 40)
    assert read == list(range(8, 60))
    begun, *_ = rows("two", 0, 15)
    resumed, read, _ = rows("two", 15, 25)
    assert np.array_equal(np.concatenate([begun, resumed]), whole)
    assert read == [], "the first run had read it all for its rows, which come from far apart"
    held_out = [
        batch.targets[batch.answer_mask] for batch in task.labelled_batches(task.cells()[0])
    ]
    assert sum(map(len, held_out)) == sum(len(tokenizer.encode(each)) for each in texts[:7])
    assert task.protocol()["text"] == "stream: some/set, sample, abc, its first 7 documents"
    validation = task.validation(5).protocol()
    assert validation["held_out_tokens"] == len(tokenizer.encode(texts[7]))


@pytest.mark.parametrize(
    ("task", "text", "said"),
    [
        ({"lengths": []}, {}, "task.lengths is empty"),
        ({"lengths": ["1q"]}, {}, "task.lengths: '1q' is not a length"),
        ({"lengths": ["0k"]}, {}, "task.lengths: 0k leaves nothing"),
        ({"held_out_characters": 0}, {}, "task.held_out_characters=0 must"),
        ({}, {"source": "stream"}, "text.source=stream needs text.dataset=NAME"),
        ({}, {"source": "steam"}, r"text.source=steam .*did you mean stream\?"),
    ],
)
def test_what_cannot_be_names_the_key(task: dict, text: dict, said: str) -> None:
    check = LanguageModellingSettings(**task).check if task else check_text
    with pytest.raises(ValueError, match=said):
        check(TextSettings(**text))
