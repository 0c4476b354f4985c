"""Language modelling: every token of a text predicted from what stands before it in its document.

Training rows are cut from one endless stream of documents, so that nothing is padded: a row may
begin in the middle of a document and hold several. Documents are whole books, files or web pages:
only they are long enough for a context of 16k tokens to tell something, and a chapter is no new
beginning. Held-out documents are predicted whole, in windows of each length; every length is about
the same tokens, and differs in nothing but how far back a prediction can look. Some are to choose
settings by and the others to test on; none of them is trained on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.seeding import generator
from atlas_bench.tasks.lengths import parse_length
from atlas_bench.tasks.stages import LengthStage
from atlas_bench.tasks.task import (
    Batch,
    Cell,
    Labelled,
    Measured,
    TaskSettings,
    check_counts,
    check_named,
)
from atlas_bench.tasks.vocabulary import babilong_tokenizer
from atlas_bench.text.corpora import STREAM, Book, Corpus, load_corpus, split_training
from atlas_bench.text.documents import HubSet, LocalDocuments, StreamedDocuments, document_tokens
from atlas_bench.text.settings import TextSettings

SUBTASK = "held-out"
FIRST_BUCKET = 256  # positions; every further bucket is as long as all before it
EVALUATED_TOKENS = 2**14  # of a batch, at least one row
_CONVENTION = "finetuning"  # 1k = 1024 tokens, as in the papers' 4K


@dataclass
class LanguageModellingSettings(TaskSettings):
    """How far back held-out text is predicted from, and how much of it there is."""

    name: str = "lm"
    lengths: list[str] = field(default_factory=lambda: ["1k", "4k", "16k"])  # of windows
    reset_at_documents: bool = True  # else memory and attention carry on into the next document
    held_out_characters: int = 500_000  # of text, so that every tokenizer is judged on the same

    stage = LengthStage
    default_stages = (LengthStage(length=1024),)


def check_language_modelling(task: LanguageModellingSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for lengths or a text that cannot be."""
    check_named(task, "lengths")
    for length in task.lengths:
        if parse_length(length, _CONVENTION) < 2:
            raise ValueError(f"task.lengths: {length} leaves nothing to predict from; use 1k")
    check_counts(task, "held_out_characters")


@dataclass(frozen=True)
class Windows:
    """Held-out text as rows of one length: a batch's arrays, and which rows are one window that
    fills them, inside one document where memory is reset, (R,) bool."""

    inputs: np.ndarray
    targets: np.ndarray
    answer_mask: np.ndarray
    starts: np.ndarray
    full: np.ndarray


class LanguageModellingTask:
    """A `LabelledTask`: see `atlas_bench.tasks.task`."""

    def __init__(
        self,
        settings: LanguageModellingSettings,
        text: TextSettings,
        *,
        seed: int,
        question_every: int,
    ) -> None:
        """``question_every`` is for tasks that ask."""
        self.settings, self.text, self.seed = settings, text, seed
        # The one that all tasks on text share: a model trained here can be asked anything there.
        self.tokenizer = babilong_tokenizer(text.tokenizer, text.vocab_size)
        self.vocab_size = self.tokenizer.vocab_size
        self._documents: int | None = None  # to choose settings by; else those of the test
        self._order: tuple[tuple[int, int], np.ndarray] | None = None  # the last one used
        self._windows: dict[int, Windows] = {}

    # --- training ---------------------------------------------------------------------------

    def batch(self, stage: LengthStage, first: int, count: int) -> Batch:
        """Rows ``first`` to ``first + count - 1``: every target counts, but for a document's
        first, the end token, which the document before says nothing about."""
        rows = [self._row(stage.length, index) for index in range(first, first + count)]
        tokens = np.stack(rows)
        end_id = self.tokenizer.end_id
        starts = tokens[:, :-1] == end_id if self.settings.reset_at_documents else None
        return Batch(tokens[:, :-1], tokens[:, 1:], tokens[:, 1:] != end_id, starts)

    def _row(self, length: int, index: int) -> np.ndarray:
        """Tokens (length + 1,) of the stream. Rows are drawn from far apart in it: neighbours are
        about the same things, and a batch of them teaches less."""
        mixed = max(1, self._stream.mixed_tokens // length)
        block, place = divmod(index, mixed)
        if self._order is None or self._order[0] != (length, block):
            order = generator("rows", self.seed, length, block).permutation(mixed)
            self._order = (length, block), order
        row = block * mixed + int(self._order[1][place])
        return self._stream.take(row * length, length + 1)

    @cached_property
    def _stream(self) -> LocalDocuments | StreamedDocuments:
        if self.text.source == STREAM:
            return self._hub_set.tokens(self.tokenizer)
        corpus, _ = split_training(load_corpus(self.text.source, folder=self.text.folder))
        tokens = document_tokens(self.tokenizer, [book.text for book in corpus.books])
        return LocalDocuments(tokens, self.tokenizer.end_id, self.seed)

    @property
    def _hub_set(self) -> HubSet:
        return HubSet(self.text.dataset, self.text.subset, self.text.revision)

    # --- evaluation -------------------------------------------------------------------------

    def validation(self, samples: int) -> LanguageModellingTask | None:
        """On the first ``samples`` documents that are neither trained nor tested on; None at 0.

        Which they are does not follow task.seed: a checkpoint that is evaluated under another seed
        would meet documents that it was trained on.
        """
        if not samples:
            return None
        task = LanguageModellingTask(self.settings, self.text, seed=self.seed, question_every=1)
        task._documents = samples
        return task

    def cells(self) -> list[Cell]:
        """The held-out text at every length."""
        return [
            Cell(SUBTASK, length, parse_length(length, _CONVENTION))
            for length in self.settings.lengths
        ]

    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        """Windows of at most the cell's length. Every held-out token is a target once."""
        windows = self._windows_of(cell.tokens)
        size = max(1, EVALUATED_TOKENS // cell.tokens)
        for first in range(0, len(windows.full), size):
            rows = slice(first, first + size)
            used = 1 + int(np.flatnonzero(windows.answer_mask[rows].any(0))[-1])
            yield Batch(
                windows.inputs[rows, :used],
                windows.targets[rows, :used],
                windows.answer_mask[rows, :used],
                windows.starts[rows, :used] if self.settings.reset_at_documents else None,
            )

    def judge(self, cell: Cell, found: Labelled) -> list[Measured]:
        """Perplexity of a token and of a word, bits of a byte, and the loss by position.

        Words and bytes are the text's own, as lm-eval counts them, so that tokenizers can be
        compared. A position's loss is that of windows of full length alone: the same text at
        every position.
        """
        total = float(found.loss.sum(dtype=np.float64))
        tokens, words, size = len(found.loss), self._words, self._bytes
        measured = [
            Measured(cell, "perplexity", math.exp(total / tokens), tokens),
            Measured(cell, "word_perplexity", math.exp(total / words), words),
            Measured(cell, "bits_per_byte", total / size / math.log(2), size),
        ]
        full = self._windows_of(cell.tokens).full[found.example]
        for low, high in buckets(cell.tokens):
            inside = full & (low <= found.position) & (found.position < high)
            if inside.any():
                bucket = Cell(bucket_name(low, high), cell.length, cell.tokens)
                mean = float(found.loss[inside].mean(dtype=np.float64))
                measured.append(Measured(bucket, "position_loss", mean, int(inside.sum())))
        return measured

    def protocol(self) -> dict[str, Any]:
        """For the record."""
        if self.settings.reset_at_documents:
            memory = "reset where a document starts"
        else:
            memory = "carried on from document to document"
        streamed = self.text.source == STREAM
        tokens = self._held_out_tokens[self._held_out_tokens != self.tokenizer.end_id]
        return {
            "text": self._held_out.note,
            "documents": f"{len(self._held_out.books)} whole, each behind an end token",
            "memory": memory,
            "validation": f"an eighth of the {'held-out' if streamed else 'training'} documents",
            "held_out_characters": self._held_out.characters,
            "held_out_tokens": len(tokens),
            # Of the held-out tokens' own frequencies, which no model without context can beat.
            "unigram_perplexity": round(unigram_perplexity(tokens), 2),
        }

    @cached_property
    def _held_out(self) -> Corpus:
        if self.text.source == STREAM:
            corpus = self._hub_set.held_out()[0 if self._documents is None else 1]
        elif self._documents is None:
            corpus = load_corpus(self.text.source, folder=self.text.folder, split="test")
        else:
            _, corpus = split_training(load_corpus(self.text.source, folder=self.text.folder))
        corpus = replace(corpus, books=corpus.books[: self._documents])
        corpus = _shortened(corpus, self.settings.held_out_characters)
        if not corpus.books:
            raise ValueError(f"text.source: nothing of the text is held out ({corpus.note})")
        return corpus

    @cached_property
    def _held_out_tokens(self) -> np.ndarray:
        return document_tokens(self.tokenizer, [book.text for book in self._held_out.books])

    @property
    def _words(self) -> int:
        return sum(len(re.split(r"\s+", book.text)) for book in self._held_out.books)

    @property
    def _bytes(self) -> int:
        return sum(len(book.text.encode()) for book in self._held_out.books)

    def _windows_of(self, length: int) -> Windows:
        if length not in self._windows:
            tokens, end_id = self._held_out_tokens, self.tokenizer.end_id
            reset = self.settings.reset_at_documents
            begins = np.flatnonzero(tokens == end_id) if reset else np.zeros(1, dtype=np.int64)
            self._windows[length] = held_out_windows(tokens, begins, length, end_id)
        return self._windows[length]


def held_out_windows(tokens: np.ndarray, begins: np.ndarray, length: int, end_id: int) -> Windows:
    """``tokens`` cut at ``begins``, then into windows of ``length``, placed in as few rows as come
    easily: the longest first, each in the first row with room."""
    ends = np.append(begins[1:], len(tokens))
    pieces = [
        (min(length, int(end) - 1 - at), at)
        for begin, end in zip(begins, ends, strict=True)
        for at in range(int(begin), int(end) - 1, length)
    ]
    pieces.sort(key=lambda piece: -piece[0])
    rows: list[list[tuple[int, int]]] = []
    room: list[int] = []
    for size, at in pieces:
        place = next((row for row, left in enumerate(room) if left >= size), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(length)
        rows[place].append((size, at))
        room[place] -= size
    shape = (len(rows), length)
    inputs, targets = np.full(shape, end_id, np.int32), np.full(shape, end_id, np.int32)
    starts = np.zeros(shape, dtype=bool)
    for row, content in enumerate(rows):
        column = 0
        for size, at in content:
            inputs[row, column : column + size] = tokens[at : at + size]
            targets[row, column : column + size] = tokens[at + 1 : at + size + 1]
            starts[row, column] = True
            column += size
    full = np.array([content[0][0] == length for content in rows])
    return Windows(inputs, targets, targets != end_id, starts, full)


def buckets(length: int, first: int = FIRST_BUCKET) -> Iterator[tuple[int, int]]:
    """Positions [0, 256), [256, 512), [512, 1024), ... up to ``length``, or from ``first`` on."""
    low, high = 0, first
    while low < length:
        yield low, min(high, length)
        low, high = high, 2 * high


def bucket_name(low: int, high: int) -> str:
    """``256-511`` for positions [256, 512)."""
    return f"{low}-{high - 1}"


def unigram_perplexity(tokens: np.ndarray) -> float:
    """exp of the entropy of the tokens' own frequencies."""
    _, counts = np.unique(tokens, return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _shortened(corpus: Corpus, characters: int) -> Corpus:
    """The first documents up to so many characters, the last of them cut."""
    books = []
    for book in corpus.books:
        text = book.text[:characters]
        characters -= len(text)
        if text.strip():
            books.append(Book(book.title, text))
    return Corpus(corpus.note, tuple(books))
