"""The text that tasks are made of, and how it is tokenised."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_bench.config.bounds import bounded, check_bounds
from atlas_bench.text.corpora import SOURCES, STREAM
from atlas_bench.text.files import text_files


@dataclass
class TextSettings:
    """Prose, and the tokenizer."""

    # hub is emozilla/pg19; stream is for task=lm only.
    source: str = bounded("embedded", one_of=(*SOURCES, STREAM))
    folder: str | None = None  # the folder of .txt files for source=folder
    dataset: str | None = None  # the data set for source=stream, on the hub or in a local folder
    subset: str | None = None  # one of the configurations of the data set
    revision: str | None = None  # a commit of the data set, so that it stays the same
    tokenizer: str = "embedded"  # embedded: BPE trained once; else a folder or tokenizer.json
    # Vocabulary of the embedded tokenizer; 256 bytes and the task's words need at least 512.
    vocab_size: int = bounded(1024, at_least=512, at_most=2**24)


def check_text(text: TextSettings) -> None:
    """Raise ValueError in one sentence for bad values and for a source that is not located."""
    check_bounds(text, "text.")
    if text.source == "folder" and not text.folder:
        raise ValueError("text.source=folder needs text.folder=PATH, a folder of .txt files")
    if text.source == "folder":
        text_files(text.folder)
    if text.source == STREAM and not text.dataset:
        raise ValueError("text.source=stream needs text.dataset=NAME, a data set on the hub")
