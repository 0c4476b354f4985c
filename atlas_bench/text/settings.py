"""The text that tasks are made of, and how it is tokenised."""

from __future__ import annotations

from dataclasses import dataclass

from atlas_bench.naming import check_choice
from atlas_bench.text.corpora import SOURCES, STREAM


@dataclass
class TextSettings:
    """Prose, and the tokenizer."""

    source: str = "embedded"  # embedded | folder | hub (emozilla/pg19) | stream (task=lm only)
    folder: str | None = None  # of .txt files, for source=folder
    # Of the set that source=stream reads from the hub, or from a local folder.
    dataset: str | None = None  # its name
    subset: str | None = None  # which of its configurations
    revision: str | None = None  # a commit, so that it stays the same
    tokenizer: str = "embedded"  # embedded: BPE trained once; else a folder or tokenizer.json
    vocab_size: int = 1024  # of the embedded tokenizer


def check_text(text: TextSettings) -> None:
    """Raise ValueError in one sentence for a text that cannot be had."""
    check_choice("text.source", text.source, (*SOURCES, STREAM))
    if text.vocab_size < 512:
        raise ValueError(
            f"text.vocab_size={text.vocab_size} is too small: 256 bytes and the task's words need "
            f"at least 512"
        )
    if text.source == "folder" and not text.folder:
        raise ValueError("text.source=folder needs text.folder=PATH, a folder of .txt files")
    if text.source == STREAM and not text.dataset:
        raise ValueError("text.source=stream needs text.dataset=NAME, a set on the hub")
