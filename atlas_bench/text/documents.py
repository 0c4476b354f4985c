"""Documents as one endless stream of tokens, every part of which can be read again.

Every document begins with the tokenizer's end token, which no text can spell. It marks where
documents start, and the first token of a document is predicted from it. `LocalDocuments` holds a
whole corpus in memory. `StreamedDocuments` reads a set that is too large for that, and keeps on
disk what it has read.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from atlas_bench.seeding import generator
from atlas_bench.text.cache import cache_directory, find_cached, keep
from atlas_bench.text.corpora import Book, Corpus, stream_rows
from atlas_bench.text.files import CorpusError
from atlas_bench.text.tokenizer import Tokenizer

HELD_OUT_DOCUMENTS = 1024  # the first documents, because such a set has no held-out part
VALIDATION_SHARE = 8  # one in so many held-out documents, the last ones, is for validation
DOCUMENTS_A_BLOCK = 1024  # documents in one file: about a million tokens of web pages
# Tokenising takes a hundred times the memory of a text.
_TOKENISED_AT_ONCE, _LONGEST_PART = 16, 2**18  # texts, characters
_SEAM = re.compile(r"(?<=\w)(?= \w)")


def document_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """All texts one after another, int32 (N,), each after an end token.

    Raises ValueError naming ``text.tokenizer`` if it does not give the texts back.
    """
    tokenizer.check_round_trip(texts)
    pieces = [np.zeros(0, dtype=np.int32)]
    parts = ((begin, part) for text in texts for begin, part in _parts(text, tokenizer.end_id))
    while batch := list(islice(parts, _TOKENISED_AT_ONCE)):
        encoded = tokenizer.encode_batch([part for _, part in batch])
        for (begin, _), ids in zip(batch, encoded, strict=True):
            pieces.append(np.array(begin + ids, dtype=np.int32))
    return np.concatenate(pieces)


def _parts(text: str, end_id: int) -> Iterator[tuple[list[int], str]]:
    """Parts of a text, each with the ids before it. A long one is cut before a word, where tokens
    end too."""
    start = 0
    while len(text) - start > _LONGEST_PART:
        seam = _SEAM.search(text, start + _LONGEST_PART, start + 2 * _LONGEST_PART)
        end = seam.start() if seam else start + _LONGEST_PART
        yield [] if start else [end_id], text[start:end]
        start = end
    yield [] if start else [end_id], text[start:]


class LocalDocuments:
    """A corpus, repeated without end; each pass has its own order of the documents.

    ``mixed_tokens``: how far apart in the stream the rows of a batch may be; here a pass.
    """

    def __init__(self, tokens: np.ndarray, end_id: int, seed: int) -> None:
        """``tokens``: the result of `document_tokens` for at least one document."""
        self._tokens, self._seed = tokens, seed
        self._starts = np.flatnonzero(tokens == end_id)
        self._lengths = np.diff(self._starts, append=len(tokens))
        self._passes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.mixed_tokens = len(tokens)

    def take(self, first: int, count: int) -> np.ndarray:
        """Tokens ``first`` to ``first + count - 1`` of the endless stream, int32."""
        pieces = []
        while count:
            number, at = divmod(first, len(self._tokens))
            order, begins = self._pass(number)
            place = int(np.searchsorted(begins, at, side="right")) - 1
            begin = self._starts[order[place]] + at - begins[place]
            end = self._starts[order[place]] + self._lengths[order[place]]
            pieces.append(self._tokens[begin : min(end, begin + count)])
            first, count = first + len(pieces[-1]), count - len(pieces[-1])
        return np.concatenate(pieces)

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the documents in a pass, and where each begins in it."""
        if number not in self._passes:
            order = generator("documents", self._seed, number).permutation(len(self._starts))
            lengths = self._lengths[order]
            self._passes[number] = order, np.cumsum(lengths) - lengths
        return self._passes[number]


@dataclass
class StreamedDocuments:
    """A set in its own order, read once and kept on disk as tokens in blocks of documents.

    A block depends on its number, the set and the tokenizer alone. What this run or another has
    read is not read again, and a resumed run sees the same tokens. A token takes two bytes, or four
    if the vocabulary has more than 65,536. After its end the set begins again.
    """

    texts: Callable[[int], Iterator[str]]  # the documents from a number on
    tokenizer: Tokenizer
    folder: Path
    _: KW_ONLY
    skipped: int  # documents at the start of the set that are not part of the stream
    block: int  # documents in a file
    mixed_tokens: int = 2**20  # as for LocalDocuments

    def __post_init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._begins = [0]  # where each block begins, and where the last one ends
        self._whole = False
        self._open: tuple[int, Iterator[str]] | None = None  # the next block's number, and the rest

    def take(self, first: int, count: int) -> np.ndarray:
        """Tokens ``first`` to ``first + count - 1`` of the endless stream, int32.

        Raises CorpusError if they cannot be read.
        """
        pieces = []
        while count:
            while first >= self._begins[-1] and not self._whole:
                self._append()
            at = first % self._begins[-1] if self._whole else first
            number = bisect.bisect_right(self._begins, at) - 1
            begin = at - self._begins[number]
            pieces.append(self._blocks[number][begin : begin + count].astype(np.int32))
            first, count = first + len(pieces[-1]), count - len(pieces[-1])
        return np.concatenate(pieces)

    def _append(self) -> None:
        number = len(self._blocks)
        name = self.folder / f"{number:06d}.npy"
        tokens = np.load(find_cached(name) or self._read(number, name), mmap_mode="r")
        self._blocks.append(tokens)
        self._begins.append(self._begins[-1] + len(tokens))
        self._whole = np.count_nonzero(tokens == self.tokenizer.end_id) < self.block
        if self._begins[-1] == 0:
            raise CorpusError(
                f"text.dataset: it has no more than the {self.skipped} documents that are held out"
            )

    def _read(self, number: int, name: Path) -> Path:
        at, texts = self._open or (None, None)
        if at != number:
            texts = self.texts(self.skipped + number * self.block)
        self._open = None  # after an error the iterator ends, as if the set ended here
        read = list(islice(texts, self.block))
        self._open = number + 1, texts
        tokens = document_tokens(self.tokenizer, read)
        small = self.tokenizer.vocab_size <= 2**16
        file = io.BytesIO()
        np.save(file, tokens.astype(np.uint16 if small else np.int32))
        return keep(name, file.getvalue())


@dataclass(frozen=True)
class HubSet:
    """A set of documents on the Hugging Face hub, or in a local folder, with a column ``text``."""

    name: str
    subset: str | None = None
    revision: str | None = None

    def texts(self, first: int) -> Iterator[str]:
        """Documents ``first``, ``first + 1``, ... in the set's order, fetched one by one.

        Raises CorpusError that names ``text.dataset`` if the network or the set fails.
        """
        names = {"key": "text.dataset", "label": self.label}
        options = {"split": "train", "revision": self.revision}
        for row in stream_rows(self.name, self.subset, first=first, **names, **options):
            if not isinstance(row.get("text"), str):
                raise CorpusError(
                    f"text.dataset: {self.label} has no text in its column text; its columns are "
                    f"{', '.join(row)}"
                )
            yield row["text"]

    def held_out(self) -> tuple[Corpus, Corpus]:
        """The first documents, for the test and for validation; read once and kept on disk."""
        name = self.cache("held-out") / "texts.json"
        path = find_cached(name)
        if path is None:
            texts = list(islice(self.texts(0), HELD_OUT_DOCUMENTS))
            path = keep(name, json.dumps(texts).encode())
        texts = json.loads(path.read_bytes())
        books = tuple(Book(f"document {number}", text) for number, text in enumerate(texts))
        tested = len(books) - len(books) // VALIDATION_SHARE
        return (
            Corpus(f"{self.label}, its first {tested} documents", books[:tested]),
            Corpus(f"{self.label}, its documents {tested} to {len(books) - 1}", books[tested:]),
        )

    def tokens(self, tokenizer: Tokenizer) -> StreamedDocuments:
        """The other documents as tokens."""
        return StreamedDocuments(
            self.texts,
            tokenizer,
            self.cache(tokenizer.fingerprint),
            skipped=HELD_OUT_DOCUMENTS,
            block=DOCUMENTS_A_BLOCK,
        )

    def cache(self, kind: str) -> Path:
        """The folder of a set and a ``kind`` in `cache_directory`."""
        facts = [self.name, self.subset, self.revision, HELD_OUT_DOCUMENTS, DOCUMENTS_A_BLOCK]
        key = hashlib.sha256(json.dumps([*facts, kind]).encode()).hexdigest()[:20]
        return cache_directory() / "documents" / key

    @property
    def label(self) -> str:
        """For the record."""
        parts = (self.name, self.subset, self.revision)
        return "stream: " + ", ".join(part for part in parts if part)
