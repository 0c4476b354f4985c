"""Streams of documents: nothing lost, every pass another order, the same tokens after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from atlas_bench.text import documents
from atlas_bench.text.corpora import CorpusError
from atlas_bench.text.documents import (
    HubSet,
    LocalDocuments,
    StreamedDocuments,
    document_tokens,
)
from atlas_bench.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = [f"Document {number}. " + "It goes on. " * (number % 7) for number in range(30)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield train_tokenizer(512)


def texts_of(tokens: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The documents in ``tokens``, which begin with one."""
    starts = np.flatnonzero(tokens == tokenizer.end_id)
    assert starts[0] == 0
    return [tokenizer.decode(part) for part in np.split(tokens, starts[1:])]


def test_every_document_stands_behind_an_end_token(tokenizer: Tokenizer) -> None:
    spelt = ["A text that spells <|end|> in full.", "", "Another."]
    tokens = document_tokens(tokenizer, spelt)
    assert tokens.dtype == np.int32
    assert texts_of(tokens, tokenizer) == spelt


@pytest.mark.parametrize("length", [20, 1000])
def test_a_long_text_is_tokenised_in_parts(
    tokenizer: Tokenizer, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trust C17: tokenising 1 GB at once took 100 GB."""
    texts = [" ".join(TEXTS), "No seam:  " + "日本語" * 300]
    whole = [document_tokens(tokenizer, [text]) for text in texts]
    monkeypatch.setattr(documents, "_LONGEST_PART", length)
    monkeypatch.setattr(tokenizer, "encode", lambda _: pytest.fail("as a whole"))
    assert np.array_equal(document_tokens(tokenizer, texts[:1]), whole[0])
    assert texts_of(document_tokens(tokenizer, texts), tokenizer) == texts


def test_a_pass_has_every_document_once_in_an_order_of_its_own(tokenizer: Tokenizer) -> None:
    tokens = document_tokens(tokenizer, TEXTS)
    stream = LocalDocuments(tokens, tokenizer.end_id, seed=0)
    passes = [texts_of(stream.take(n * len(tokens), len(tokens)), tokenizer) for n in range(3)]
    for one in passes:
        assert sorted(one) == sorted(TEXTS)
    assert passes[0] != passes[1] != passes[2] != TEXTS
    other = LocalDocuments(tokens, tokenizer.end_id, seed=1).take(0, len(tokens))
    assert texts_of(other, tokenizer) != passes[0]


def test_any_part_can_be_had_alone(tokenizer: Tokenizer) -> None:
    tokens = document_tokens(tokenizer, TEXTS)
    whole = LocalDocuments(tokens, tokenizer.end_id, seed=0).take(0, 3 * len(tokens))
    for first, size in ((0, 1), (5, 40), (len(tokens) - 3, 7), (2 * len(tokens) - 1, 2), (17, 900)):
        part = LocalDocuments(tokens, tokenizer.end_id, seed=0).take(first, size)
        assert np.array_equal(part, whole[first : first + size])


class Source:
    """A set of texts that counts what is read of it, and may break."""

    def __init__(self, texts: list[str], breaks_at: int | None = None) -> None:
        self.texts, self.breaks_at = texts, breaks_at
        self.opened: list[int] = []
        self.read: list[int] = []

    def __call__(self, first: int) -> Iterator[str]:
        self.opened.append(first)
        for number in count(first):
            if number == self.breaks_at:
                raise CorpusError("the line is dead")
            if number == len(self.texts):
                return
            self.read.append(number)
            yield self.texts[number]


def streamed(source: Source, tokenizer: Tokenizer, folder: Path) -> StreamedDocuments:
    return StreamedDocuments(source, tokenizer, folder, skipped=3, block=4)


def test_a_stream_is_read_once_and_goes_on_where_it_was_left(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    wanted = document_tokens(tokenizer, TEXTS[3:])
    source = Source(TEXTS)
    first = streamed(source, tokenizer, tmp_path)
    assert np.array_equal(first.take(0, 30), wanted[:30])
    half = len(document_tokens(tokenizer, TEXTS[3:15]))
    assert np.array_equal(first.take(10, half - 10), wanted[10:half])
    assert source.opened == [3]
    assert source.read == list(range(3, 15)), "three blocks, and nothing beyond what was asked for"

    again = Source(TEXTS)
    second = streamed(again, tokenizer, tmp_path)  # as after a restart
    assert np.array_equal(second.take(half - 5, 5), wanted[half - 5 : half])
    assert again.opened == []
    assert np.array_equal(second.take(half - 5, 25), wanted[half - 5 : half + 20])
    assert again.opened == [15], "what was read before is skipped"
    twice = second.take(0, 2 * len(wanted))
    assert np.array_equal(twice, np.tile(wanted, 2)), "at its end it begins again"


def test_a_stream_that_breaks_has_not_ended(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted = document_tokens(tokenizer, TEXTS[3:])
    source = Source(TEXTS, breaks_at=9)
    stream = streamed(source, tokenizer, tmp_path)
    for _ in range(2):
        with pytest.raises(CorpusError, match="the line is dead"):
            stream.take(0, len(wanted))
    source.breaks_at = None
    assert np.array_equal(stream.take(0, len(wanted)), wanted)


def test_a_set_of_held_out_documents_alone_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"text\.dataset: it has no more than the 3 documents"):
        streamed(Source(TEXTS[:3]), tokenizer, tmp_path).take(0, 10)


def test_changed_tokens_in_the_cache_are_read_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Trust A5: a resumed run reads the tokens that it would have read."""
    right = streamed(Source(TEXTS), tokenizer, tmp_path).take(0, 30)
    (file,) = tmp_path.iterdir()
    np.save(file, np.load(file)[::-1])
    again = Source(TEXTS)
    assert np.array_equal(streamed(again, tokenizer, tmp_path).take(0, 30), right)
    assert again.opened == [3]


def test_a_set_without_a_column_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"content": "One.", "id": 1}]
    monkeypatch.setattr(documents, "stream_rows", lambda *_, **__: iter(rows))
    with pytest.raises(CorpusError, match=r"text\.dataset: .* columns are content, id"):
        next(HubSet("some/set").texts(0))


def test_ids_beyond_two_bytes_are_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    class Large:
        end_id, vocab_size = 70_000, 70_001

        def check_round_trip(self, texts: list[str]) -> None: ...

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[69_999]] * len(texts)

    found = streamed(Source(TEXTS), Large(), tmp_path).take(0, 4)
    assert found.tolist() == [70_000, 69_999] * 2


def test_the_datasets_package_streams_a_set_and_skips_in_it(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("ATLAS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(documents, "HELD_OUT_DOCUMENTS", 4)
    folder = tmp_path / "set"
    folder.mkdir()
    for part in range(2):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[15 * part :][:15])
        (folder / f"{part}.jsonl").write_text(rows)
    hub = HubSet(str(folder))
    assert list(hub.texts(13)) == TEXTS[13:]
    monkeypatch.setattr(documents, "VALIDATION_SHARE", 4)
    tested, validated = hub.held_out()
    assert [book.text for book in (*tested.books, *validated.books)] == TEXTS[:4]
    assert len(validated.books) == 1
    assert validated.note.endswith("its documents 3 to 3")
    (folder / "0.jsonl").unlink()
    (folder / "1.jsonl").unlink()
    assert hub.held_out() == (tested, validated), "read once"
    with pytest.raises(CorpusError, match=r"text\.dataset: could not read stream: .*set \("):
        next(hub.texts(0))


def test_sets_and_tokenizers_are_kept_apart() -> None:
    facts = [("a", None, None), ("a", "b", None), ("a", None, "b"), ("b", None, None)]
    folders = {HubSet(*fact).cache(kind) for fact in facts for kind in ("held-out", "0123")}
    assert len(folders) == 8
