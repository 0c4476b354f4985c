"""Tokenizers: a small byte-level BPE trained here, or any saved ``tokenizer.json``.

The trained one is the default, because a vocabulary of 50,000 tokens would be most of a small
model. Its vocabulary has three special tokens, the 256 bytes, the task's words as whole tokens, and
the most frequent merges of the embedded text. It is trained once and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from atlas_bench.artifacts.folder import read_json_if_valid, replacing
from atlas_bench.text.cache import cache_directory, find_cached, keep
from atlas_bench.text.corpora import Corpus, load_corpus

PAD, ANSWER, END = "<|pad|>", "<|answer|>", "<|end|>"
SPECIAL_TOKENS = (PAD, ANSWER, END)  # ANSWER and END are GEN and EOS in the BABILong recipe
EMBEDDED = "embedded"
TRAINING_VERSION = 1  # raise it when training changes, so that older cached files are not used
_NAME_FILE, _NAME = "tokenizer_config.json", "name_or_path"
_BYTES = 256
_CACHED_PHRASES = 100_000  # every bAbI world has a few thousand; the limit is for other texts

log = logging.getLogger(__name__)


class Tokenizer:
    """Text to ids and back, with ids for padding, "answer now" and "end of answer".

    The spelling of a special token inside a text is encoded as ordinary text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, name: str) -> None:
        """Wrap ``backend`` and add those of the three special tokens that it lacks."""
        missing = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is None]
        if missing:
            backend.add_special_tokens([AddedToken(token, special=True) for token in missing])
        # A file may have padding or truncation settings; here every length is exact.
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        self._phrases: dict[str, np.ndarray] = {}
        self.name = name
        self.pad_id: int = backend.token_to_id(PAD)
        self.answer_id: int = backend.token_to_id(ANSWER)
        self.end_id: int = backend.token_to_id(END)
        # The largest id decides the embedding's size; ids of a saved vocabulary may have gaps.
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        self.fingerprint: str = hashlib.sha256(backend.to_str().encode()).hexdigest()[:12]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` alone."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts; uses every core."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def encode_phrase(self, text: str) -> np.ndarray:
        """Ids of a short, frequent text, int32, read-only, kept for the next call.

        ``text`` includes the leading space that BABILong gives every statement.
        """
        ids = self._phrases.get(text)
        if ids is None:
            if len(self._phrases) >= _CACHED_PHRASES:
                self._phrases.clear()
            ids = np.array(self.encode(text), dtype=np.int32)
            ids.flags.writeable = False
            self._phrases[text] = ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` without special tokens."""
        return self._backend.decode([int(token) for token in ids], skip_special_tokens=True)

    def save(self, directory: str | Path) -> Path:
        """Write ``directory/tokenizer.json`` and return its path. The name is in a file beside it,
        where transformers keeps names too."""
        path = Path(directory) / "tokenizer.json"
        with replacing(path.with_name(_NAME_FILE)) as temporary:
            temporary.write_text(json.dumps({_NAME: self.name}), encoding="utf-8")
        with replacing(path) as temporary:
            temporary.write_text(self._backend.to_str(), encoding="utf-8")
        return path


def make_tokenizer(
    source: str | Path = EMBEDDED, *, vocab_size: int = 1024, wording: Iterable[str] = ()
) -> Tokenizer:
    """The tokenizer that ``text.tokenizer`` names: ``embedded`` to train one, else a path.

    ``vocab_size`` and ``wording`` (see `train_tokenizer`) are for ``embedded`` only.
    """
    if str(source) == EMBEDDED:
        return train_tokenizer(vocab_size, wording)
    return load_tokenizer(source)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A saved tokenizer: a ``tokenizer.json`` of the tokenizers library, or a folder with one.

    Its name is the one saved beside it, else the name of the folder or file. Raises ValueError that
    names ``text.tokenizer`` and the path if it cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "tokenizer.json"
    wanted = f"give {EMBEDDED!r}, a tokenizer.json, or a folder that holds one"
    if not file.is_file():
        raise ValueError(f"text.tokenizer: there is no file {file}; {wanted}")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"text.tokenizer: {file} is no tokenizer.json of the tokenizers library ({error}); "
            f"{wanted}"
        ) from error
    if file.name != "tokenizer.json":
        return Tokenizer(backend, file.stem)
    saved = read_json_if_valid(file.with_name(_NAME_FILE)) or {}
    return Tokenizer(backend, saved.get(_NAME) or file.parent.name)


def train_tokenizer(vocab_size: int = 1024, wording: Iterable[str] = ()) -> Tokenizer:
    """Byte-level BPE on the embedded training text, from the cache if it was trained before.

    Every word of ``wording`` after a space is one token, whatever its frequency, so that a fact has
    the same few tokens for every name and place. The same arguments give the same ids in every
    process. Raises ValueError that names ``text.vocab_size`` if the bytes and those words do not
    fit.
    """
    words = _words(wording)
    needed = len(SPECIAL_TOKENS) + _BYTES + len(words)
    if vocab_size < needed:
        raise ValueError(
            f"text.vocab_size: {vocab_size} is too small; {len(SPECIAL_TOKENS)} special tokens, "
            f"{_BYTES} bytes and {len(words)} task words need at least {needed}"
        )
    name = cache_directory() / "tokenizers" / f"{_training_key(vocab_size, words)}.json"
    cached = find_cached(name)
    if cached is not None:
        backend = tokenizers.Tokenizer.from_file(str(cached))
    else:
        backend = _train(vocab_size, words, load_corpus(EMBEDDED, split="train"))
    tokenizer = Tokenizer(backend, f"bpe-{vocab_size}")
    if cached is None:
        try:
            keep(name, backend.to_str().encode())
        except OSError as error:
            log.warning("the tokenizer is not kept for the next run: %s", error)
    return tokenizer


def _words(wording: Iterable[str]) -> list[str]:
    """The distinct words of the phrases in byte-level spelling, each with its leading space."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs = (pair for phrase in wording for pair in splitter.pre_tokenize_str(f" {phrase.strip()}"))
    # Single bytes are tokens already; single characters after a space ("Ġa") are not.
    return sorted({word for word, _ in pairs if len(word) > 1})


def _training_key(vocab_size: int, words: list[str]) -> str:
    """Hash of everything that decides the result."""
    facts = [TRAINING_VERSION, tokenizers.__version__, vocab_size, words, SPECIAL_TOKENS]
    return hashlib.sha256((json.dumps(facts) + _training_text()).encode()).hexdigest()[:20]


@cache
def _training_text() -> str:
    return load_corpus(EMBEDDED, split="train").sha256


def _train(vocab_size: int, words: list[str], corpus: Corpus) -> tokenizers.Tokenizer:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator((book.text for book in corpus.books), trainer)
    model = json.loads(learner.to_str())["model"]
    vocab, merges = _with_words(model["merges"], words, vocab_size)
    # ignore_merges: a word of the vocabulary is one token although no merges lead to it. Merges
    # for it would need several entries for every rare name.
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return backend


def _with_words(
    merges: list[list[str]], words: list[str], vocab_size: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Special tokens first, then bytes, task words, and as many merges as fit."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = dict.fromkeys([*SPECIAL_TOKENS, *alphabet, *words])
    kept = []
    for left, right in merges:
        joined = left + right
        if joined not in entries and len(entries) >= vocab_size:
            break
        entries[joined] = None
        kept.append((left, right))
    return {token: index for index, token in enumerate(entries)}, kept
