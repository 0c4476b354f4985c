"""Tokenizers: single-token task words, the cache, and the same ids in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from atlas_bench.text import tokenizer as module
from atlas_bench.text.tokenizer import (
    SPECIAL_TOKENS,
    Tokenizer,
    cache_directory,
    load_tokenizer,
    make_tokenizer,
    train_tokenizer,
)

WORDING = ("Mary journeyed to the bathroom.", "Where is the football?", "apple,milk", "Xqzzyvw")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of this module's own, filled by the first training."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_BENCH_CACHE", str(cache))


@pytest.fixture(scope="module")
def trained(cache: Path) -> Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(cache))
        return train_tokenizer(1024, WORDING)


def test_every_task_word_is_one_token(trained: Tokenizer) -> None:
    for word in ("Mary", "journeyed", "the", "bathroom", "Where", "apple", "Xqzzyvw"):
        assert len(trained.encode(" " + word)) == 1, word
    assert len(trained.encode(" " + WORDING[0])) == 6
    assert len(trained.encode(" apple,milk")) == 3
    assert len(trained.encode(" Bartholomew")) > 1


def test_prose_is_compressed(trained: Tokenizer) -> None:
    text = "And God said, Let there be light: and there was light."
    assert len(trained.encode(text)) < len(text) / 2


def test_special_tokens_have_ids_of_their_own(trained: Tokenizer) -> None:
    ids = {trained.pad_id, trained.answer_id, trained.end_id}
    assert len(ids) == 3
    assert max(ids) < trained.vocab_size == 1024
    assert trained.decode([trained.pad_id, *trained.encode(" Mary"), trained.end_id]) == " Mary"


def test_text_cannot_inject_a_special_token(trained: Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        assert not set(trained.encode(f"a {token} b")) & {trained.answer_id, trained.end_id}
        assert trained.decode(trained.encode(f"a {token} b")) == f"a {token} b"


@settings(deadline=None)  # the first example may train
@given(text=st.text(max_size=60))
def test_any_text_survives(text: str) -> None:
    tokenizer = _shared()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.vocab_size for token in ids)


def _shared(memory: dict[str, Tokenizer] = {}) -> Tokenizer:  # noqa: B006 (kept on purpose)
    # hypothesis must not use function-scoped fixtures; the cache makes this quick
    if "tokenizer" not in memory:
        memory["tokenizer"] = train_tokenizer(1024, WORDING)
    return memory["tokenizer"]


def test_batch_and_phrase_agree_with_encode(trained: Tokenizer) -> None:
    texts = [" In the beginning.", " Mary went.", ""]
    assert trained.encode_batch(texts) == [trained.encode(text) for text in texts]
    phrase = trained.encode_phrase(texts[0])
    assert phrase.tolist() == trained.encode(texts[0])
    assert trained.encode_phrase(texts[0]) is phrase
    with pytest.raises(ValueError, match="read-only"):
        phrase[0] = 0


def test_same_ids_in_another_process(trained: Tokenizer, tmp_path: Path) -> None:
    code = (
        "from atlas_bench.text.tokenizer import train_tokenizer; "
        f"print(train_tokenizer(1024, {WORDING[::-1]!r}).fingerprint)"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "ATLAS_BENCH_CACHE": str(tmp_path),
            "PYTHONHASHSEED": "7",
            "TOKENIZERS_PARALLELISM": "false",
        },
    )
    assert found.stdout.strip() == trained.fingerprint


def test_second_call_reads_the_cache(
    trained: Tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    again = train_tokenizer(1024, WORDING)
    assert again.fingerprint == trained.fingerprint
    assert again.name == trained.name
    assert not list(cache.rglob("*.part"))


def test_a_cache_with_shuffled_ids_is_trained_again(
    trained: Tokenizer, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A5: such a file is a valid tokenizer."""
    (file,) = (cache / "tokenizers").iterdir()
    content = json.loads(file.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(vocab, reversed(vocab.values()), strict=True))
    file.write_text(json.dumps(content), encoding="utf-8")
    assert train_tokenizer(1024, WORDING).fingerprint == trained.fingerprint
    assert "damaged" in caplog.text
    assert load_tokenizer(file).fingerprint == trained.fingerprint


def test_unwritable_cache_only_warns(
    trained: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("ATLAS_BENCH_CACHE", str(tmp_path / "file"))
    assert train_tokenizer(1024, WORDING).fingerprint == trained.fingerprint
    assert "not kept" in caplog.text


def test_wording_and_size_change_the_fingerprint(trained: Tokenizer) -> None:
    small = train_tokenizer(300, WORDING)
    assert small.vocab_size == 300
    assert small.fingerprint != trained.fingerprint
    assert len(small.encode(" Xqzzyvw")) == 1


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"text\.vocab_size: 265 is too small.*at least 27\d"):
        train_tokenizer(265, WORDING)


def test_cache_directory_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATLAS_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "atlas-bench"


def test_save_and_load_again(trained: Tokenizer, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "saved")
    for given_path in (path, path.parent, str(path)):
        loaded = make_tokenizer(given_path)
        assert loaded.fingerprint == trained.fingerprint
        assert loaded.name == trained.name
        assert loaded.encode(" Mary went.") == trained.encode(" Mary went.")


@pytest.mark.parametrize("beside", [None, "{", "[]", "{}", '{"name_or_path": ""}'])
def test_without_a_saved_name_the_folder_gives_it(
    trained: Tokenizer, tmp_path: Path, beside: str | None
) -> None:
    path = trained.save(tmp_path / "saved")
    path.with_name("tokenizer_config.json").unlink()
    if beside is not None:
        path.with_name("tokenizer_config.json").write_text(beside)
    assert load_tokenizer(path).name == "saved"


def test_missing_special_tokens_are_added_to_a_saved_tokenizer(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"[UNK]": 0, "hello": 1, "hole": 9}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_padding(length=16)
    backend.save(str(tmp_path / "words.json"))
    loaded = load_tokenizer(tmp_path / "words.json")
    assert loaded.name == "words"
    assert loaded.encode("hello") == [1]
    assert len({loaded.pad_id, loaded.answer_id, loaded.end_id, 1, 0}) == 5
    assert loaded.vocab_size > max(loaded.pad_id, loaded.answer_id, loaded.end_id, 9)


@pytest.mark.parametrize("name", ["nothing", "folder", "broken.json"])
def test_bad_path_names_key_path_and_what_is_right(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.tokenizer: .*'embedded'") as error:
        make_tokenizer(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
