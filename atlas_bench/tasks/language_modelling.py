"""Language modelling: every token of a text is predicted from those before it in its document.

Training rows are cut from one endless stream of documents, so nothing is padded: a row may begin in
the middle of a document and contain several. A document is a whole book, file or web page: only
these are long enough for a context of 16k tokens to matter, and a chapter is not a new beginning.
Held-out documents are predicted whole, in windows of each length. All lengths predict the same
tokens and differ only in how far back a prediction can look. Some held-out documents are for
validation, the others for the test; the model is trained on none of them.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.artifacts.metrics import (
    BITS_PER_BYTE,
    PERPLEXITY,
    POSITION_LOSS,
    WORD_PERPLEXITY,
)
from atlas_bench.config.bounds import bounded
from atlas_bench.seeding import generator
from atlas_bench.tasks.lengths import parse_length
from atlas_bench.tasks.stages import LengthStage
from atlas_bench.tasks.task import (
    LABELLED,
    Batch,
    Cell,
    LabelledTask,
    MetricValue,
    TaskSettings,
    TokenPredictions,
    summarize,
)
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.tasks.windows import Windows, bucket_name, buckets, held_out_windows
from atlas_bench.text.corpora import STREAM, Book, Corpus, load_corpus, split_training
from atlas_bench.text.documents import HubSet, LocalDocuments, StreamedDocuments, document_tokens
from atlas_bench.text.settings import TextSettings

SUBTASK = "held-out"
EVALUATED_TOKENS = 2**14  # in a batch, but at least one row
LONGEST_MEAN_WORD = 32  # bytes; more is text whose words have no white space between them
_CONVENTION = "finetuning"  # 1k = 1024 tokens, as in the papers' 4K


@dataclass
class LanguageModellingSettings(TaskSettings):
    """The windows in which held-out text is predicted, and how much of it there is."""

    name: str = "lm"
    lengths: list[str] = bounded(["1k", "4k", "16k"])  # window lengths
    reset_at_documents: bool = True  # else memory and attention continue in the next document
    # Characters of held-out text: every tokenizer is judged on the same text.
    held_out_characters: int = bounded(500_000, at_least=1)

    kind = LABELLED
    stage = LengthStage
    default_stages = (LengthStage(length=1024),)

    def check(self, text: TextSettings) -> None:
        super().check(text)
        for length in self.lengths:
            if parse_length(length, _CONVENTION) < 2:
                raise ValueError(f"task.lengths: {length} leaves nothing to predict from; use 1k")

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> LanguageModellingTask:
        return LanguageModellingTask(self, text, seed=seed, question_every=question_every)

    def summary(self) -> str:
        return summarize(self.name, [], self.lengths)

    def for_validation(self, samples: int) -> LanguageModellingSettings:
        return self  # the task has validation documents


class LanguageModellingTask(LabelledTask):
    """Held-out text, each token predicted from the tokens before it."""

    metrics = (PERPLEXITY, WORD_PERPLEXITY, BITS_PER_BYTE, POSITION_LOSS)

    def __init__(
        self,
        settings: LanguageModellingSettings,
        text: TextSettings,
        *,
        seed: int,
        question_every: int,
    ) -> None:
        super().__init__(settings, text, seed=seed, question_every=question_every)
        # All tasks on text share it: a model that is trained here can be asked anything there.
        self.tokenizer = shared_tokenizer(text.tokenizer, text.vocab_size, asks=False)
        self.vocab_size = self.tokenizer.vocab_size
        self._documents: int | None = None  # validation documents; None: the test documents
        self._order: tuple[tuple[int, int], np.ndarray] | None = None  # the last one used
        self._windows: dict[int, Windows] = {}

    # --- training ---------------------------------------------------------------------------

    def batch(self, stage: LengthStage, first: int, count: int) -> Batch:
        """Rows of the stream of documents. Every target counts except the end token that a document
        begins with, about which the document before says nothing."""
        rows = [self._row(stage.length, index) for index in range(first, first + count)]
        tokens = np.stack(rows)
        end_id = self.tokenizer.end_id
        starts = tokens[:, :-1] == end_id if self.settings.reset_at_documents else None
        return Batch(tokens[:, :-1], tokens[:, 1:], tokens[:, 1:] != end_id, starts)

    def _row(self, length: int, index: int) -> np.ndarray:
        """Tokens (length + 1,) of the stream. The rows of a batch lie far apart in it: neighbours
        have the same subject, so a batch of them teaches less."""
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

        They do not depend on task.seed: a checkpoint that is evaluated with another seed would meet
        documents that it was trained on.
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
        """Windows of at most the cell's length, in which every held-out token is a target once."""
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

    def judge(self, cell: Cell, predictions: TokenPredictions) -> list[MetricValue]:
        """The perplexity of a token and of a word, the bits of a byte, and the loss by position.

        Words and bytes are the text's own, as in lm-eval, so that tokenizers can be compared. A
        position's loss is the mean over windows of full length, so every position is scored on the
        same text. A text without white space between its words has no word perplexity.
        """
        total = float(predictions.loss.sum(dtype=np.float64))
        tokens, words, size = len(predictions.loss), self._words, self._bytes
        values = [
            MetricValue(cell, PERPLEXITY, _exp(total / tokens), tokens),
            MetricValue(cell, WORD_PERPLEXITY, _exp(total / words), words),
            MetricValue(cell, BITS_PER_BYTE, total / size / math.log(2), size),
        ]
        if not self._has_words:
            del values[1]
        full = self._windows_of(cell.tokens).full[predictions.example]
        for low, high in buckets(cell.tokens):
            inside = full & (low <= predictions.position) & (predictions.position < high)
            if inside.any():
                bucket = Cell(bucket_name(low, high), cell.length, cell.tokens)
                mean = float(predictions.loss[inside].mean(dtype=np.float64))
                values.append(MetricValue(bucket, POSITION_LOSS, mean, int(inside.sum())))
        return values

    def protocol(self) -> dict[str, Any]:
        """The documents, what happens between them, and a bound on the perplexity."""
        if self.settings.reset_at_documents:
            memory = "reset where a document starts"
        else:
            memory = "carried on from document to document"
        streamed = self.text.source == STREAM
        tokens = self._held_out_tokens[self._held_out_tokens != self.tokenizer.end_id]
        facts = {
            "text": self._held_out.note,
            "documents": f"{len(self._held_out.books)} whole, each behind an end token",
            "memory": memory,
            "validation": f"an eighth of the {'held-out' if streamed else 'training'} documents",
            "held_out_characters": self._held_out.characters,
            "held_out_tokens": len(tokens),
            # By the held-out tokens' own frequencies: no model without context is better.
            "unigram_perplexity": round(unigram_perplexity(tokens), 2),
        }
        if not self._has_words:
            facts["word_perplexity"] = "left out: no white space between words"
        return facts

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

    @property
    def _has_words(self) -> bool:
        return self._bytes <= LONGEST_MEAN_WORD * self._words

    def _windows_of(self, length: int) -> Windows:
        if length not in self._windows:
            tokens, end_id = self._held_out_tokens, self.tokenizer.end_id
            reset = self.settings.reset_at_documents
            begins = np.flatnonzero(tokens == end_id) if reset else np.zeros(1, dtype=np.int64)
            self._windows[length] = held_out_windows(tokens, begins, length, end_id)
        return self._windows[length]


def _exp(nats: float) -> float:
    """exp; infinite, which becomes a note in the record, where it does not fit into a float."""
    return math.inf if nats > math.log(sys.float_info.max) else math.exp(nats)


def unigram_perplexity(tokens: np.ndarray) -> float:
    """exp of the entropy of the tokens' own frequencies."""
    _, counts = np.unique(tokens, return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _shortened(corpus: Corpus, characters: int) -> Corpus:
    """The first documents with ``characters`` characters in all; the last one is cut."""
    books = []
    for book in corpus.books:
        text = book.text[:characters]
        characters -= len(text)
        if text.strip():
            books.append(Book(book.title, text))
    return Corpus(corpus.note, tuple(books))
