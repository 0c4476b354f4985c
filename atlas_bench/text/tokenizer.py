"""Tokenizers: a small byte-level BPE trained here, or any saved ``tokenizer.json``.

The trained one is the default, because a vocabulary of 50,000 tokens would be most of a small
model. Its vocabulary has three special tokens, the 256 bytes, the task's words as whole tokens, and
the most frequent merges of the embedded text. It is trained once and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

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
_PROGRESS = "progress.json"  # beside the tokenizer of a checkpoint
# Of a text's characters, such as a brace, which T5's tokenizer does not know. A tokenizer without
# capitals loses 2 to 4 %, and one of a single token everything.
MOST_LOST = 0.01
_CHECKED_CHARACTERS = 2**19  # all held-out text of task=lm at its default
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

    def check_round_trip(self, texts: Iterable[str], *, most_lost: float = MOST_LOST) -> None:
        """Raise ValueError naming ``text.tokenizer`` if texts are others after decoding.

        White space and compatible characters (NFKC) may become others, as with T5's and Llama's
        tokenizers; of the characters, a share of ``most_lost`` may be lost. At most about
        `_CHECKED_CHARACTERS` are checked. Byte-level BPE with all bytes cannot lose anything.
        """
        if self._is_lossless:
            return
        seen, lost, example = 0, 0, None
        for text in texts:
            text = text[: _CHECKED_CHARACTERS - seen]
            wanted, decoded = map(_comparable, (text, self.decode(self.encode(text))))
            if wanted != decoded:
                lost += (Counter(wanted) - Counter(decoded)).total() or 1
                example = example or (wanted, decoded)
            seen += len(text)
            if seen >= _CHECKED_CHARACTERS:
                break
        if lost > most_lost * seen:
            raise ValueError(_lossy(self.name, *example))

    @cached_property
    def _is_lossless(self) -> bool:
        spec = json.loads(self._backend.to_str())
        splitter, decoder = (spec[part] or {} for part in ("pre_tokenizer", "decoder"))
        return (
            spec["normalizer"] is None
            and splitter.get("type") == decoder.get("type") == "ByteLevel"
            and not splitter["add_prefix_space"]
            and all(
                self._backend.token_to_id(b) is not None
                for b in pre_tokenizers.ByteLevel.alphabet()
            )
        )

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
    wanted = f"give {EMBEDDED!r}, a tokenizer.json, or a folder that holds one"
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"text.tokenizer: there is no file {file}; {wanted}")
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user without a home
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"text.tokenizer: {path} cannot be read: {reason}; {wanted}") from error
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"text.tokenizer: {file} is no tokenizer.json of the tokenizers library ({error}); "
            f"{wanted}"
        ) from error
    if file.name != "tokenizer.json":
        return Tokenizer(_without_prefix(backend), file.stem)
    if not file.with_name(_PROGRESS).is_file():  # a model goes on with the tokens it has learnt
        backend = _without_prefix(backend)
    saved = read_json_if_valid(file.with_name(_NAME_FILE)) or {}
    return Tokenizer(backend, saved.get(_NAME) or file.parent.name)


def _without_prefix(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """``backend`` without the space that tokenizers as Llama-2's put before every text.

    Contexts are made of pieces that are encoded one by one. Such a space would come between them,
    and double the one that is there.
    """
    spec = json.loads(backend.to_str())
    before = {part: spec[part] for part in ("normalizer", "pre_tokenizer")}
    after = {part: _unprefixed(value) for part, value in before.items()}
    if after == before:
        return backend
    spec |= after | {"decoder": _unprefixed(spec["decoder"])}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _unprefixed(part: Any) -> Any:
    """A part of a tokenizer.json that adds no space before a text, or takes none away."""
    if isinstance(part, list):
        return [_unprefixed(each) for each in part if _type(each) != "Prepend"]
    if not isinstance(part, dict):
        return part
    if _type(part) == "Prepend":
        return None
    part = {key: _unprefixed(value) for key, value in part.items()}
    none = {"prepend_scheme": "never", "add_prefix_space": False}
    if _type(part) == "Strip" and part.get("content") == " ":
        none["start"] = 0
    return part | {key: value for key, value in none.items() if key in part}


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _comparable(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text))


def _lossy(name: str, text: str, decoded: str) -> str:
    """What a tokenizer makes of a text, from the first difference on."""
    pairs = enumerate(zip_longest(text, decoded))
    place = next(index for index, (one, other) in pairs if one != other)
    begin = max(0, place - 10)
    return (
        f"text.tokenizer: {name} does not give a text back: {text[begin : place + 10]!r} becomes "
        f"{decoded[begin : place + 10]!r}; use one that loses nothing, such as a byte-level BPE"
    )


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
