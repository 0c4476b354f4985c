"""Corpora: order, split, names left out, and errors that say what to change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atlas_bench.text import corpora
from atlas_bench.text.corpora import (
    Book,
    Corpus,
    CorpusError,
    load_corpus,
    sentences,
)


def write_books(folder: Path, count: int) -> list[str]:
    """``count`` books of forty numbered sentences; returns their texts."""
    texts = []
    for number in range(count):
        texts.append(" ".join(f"Book {number} has sentence {line}." for line in range(40)))
        (folder / f"book{number:02d}.txt").write_text(texts[-1], encoding="utf-8")
    return texts


def test_embedded_split_is_disjoint_and_repeatable() -> None:
    train, test = load_corpus(split="train"), load_corpus(split="test")
    assert train == load_corpus(split="train")
    assert not {book.title for book in train.books} & {book.title for book in test.books}
    assert 0.05 < test.characters / (train.characters + test.characters) < 0.3
    assert "embedded" in train.note


def test_embedded_is_the_king_james_text() -> None:
    train = load_corpus()
    assert "King James" in train.note
    assert train.books[0].text.startswith("In the beginning God created the heaven and the earth.")
    assert len(train.books) + len(load_corpus(split="test").books) == 66
    assert not any("[" in book.text for book in train.books)


def test_sentences_with_a_name_are_left_out() -> None:
    text = "Mary went. mary's hat. MARY! Rosemary stayed. The end came."
    corpus = Corpus("made up", (Book("a", text), Book("b", "Only John is here.")))
    assert sentences(corpus, ["Mary", "John"]) == [["Rosemary stayed.", "The end came."]]
    assert sentences(corpus, {"John", "Mary"}) == sentences(corpus, ["Mary", "John"])
    assert len(sentences(corpus)) == 2


def test_folder_holds_out_every_eighth_book(tmp_path: Path) -> None:
    write_books(tmp_path, 16)
    test = load_corpus("folder", folder=tmp_path, split="test")
    train = load_corpus("folder", folder=tmp_path)
    assert [book.title for book in test.books] == ["book07", "book15"]
    assert [book.title for book in train.books][:8] == [f"book{i:02d}" for i in (*range(7), 8)]


def test_few_books_are_cut_in_two_parts(tmp_path: Path) -> None:
    (text,) = write_books(tmp_path, 1)
    train = load_corpus("folder", folder=tmp_path).books[0].text
    test = load_corpus("folder", folder=tmp_path, split="test").books[0].text
    assert f"{train} {test}" == text
    assert train.endswith(".")
    assert len(test) < len(text) / 6


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing", "there is no folder"), ("empty", "contains no .txt file"), (None, "needs")],
)
def test_bad_folder_names_key_and_path(tmp_path: Path, name: str | None, words: str) -> None:
    (tmp_path / "empty").mkdir()
    folder = tmp_path / name if name else None
    with pytest.raises(ValueError, match=f"text.folder: .*{words}") as error:
        load_corpus("folder", folder=folder)
    assert folder is None or str(folder) in str(error.value)


class _Rows(list):
    """The rows of a streamed data set."""

    def skip(self, count: int) -> list[dict[str, str]]:
        return self[count:]


class _FakeHub:
    """Stands in for the datasets package."""

    def __init__(self, rows: list[dict[str, str]] | Exception) -> None:
        self.rows = rows
        self.calls: list[tuple[str, str]] = []

    def load_dataset(self, name: str, *, split: str, streaming: bool) -> _Rows:
        assert streaming
        self.calls.append((name, split))
        if isinstance(self.rows, Exception):
            raise self.rows
        return _Rows(self.rows)


def test_hub_reads_the_first_books_of_its_own_split(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _FakeHub([{"short_book_title": f"t{i}", "text": f"Text {i}."} for i in range(5)])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setattr(corpora, "HUB_BOOKS", 2)
    corpus = load_corpus("hub", split="test")
    assert [book.title for book in corpus.books] == ["t0", "t1"]
    assert hub.calls == [("emozilla/pg19", "test")]


def test_hub_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _FakeHub(OSError("no route\nlong trace")))
    with pytest.raises(
        CorpusError, match=r"text\.source: .*OSError: no route\).*embedded"
    ) as error:
        load_corpus("hub")
    assert "\n" not in str(error.value)


def test_import_loads_neither_datasets_nor_the_text() -> None:
    code = (
        "import sys, atlas_bench.text.tokenizer; "
        "assert not {'datasets', 'torch', 'transformers'} & set(sys.modules); "
        "assert not any(name.startswith('pythonbible') for name in sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
