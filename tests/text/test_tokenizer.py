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
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from atlas_bench.tasks.vocabulary import shared_tokenizer
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
    """Trust A5: such a file is a valid tokenizer."""
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


# tokenizers of others ---------------------------------------------------------------------------

SPACE = "\u2581"


def sentencepiece(form: str) -> Backend:
    """A tokenizer as Llama-2's, which puts a space before every text, in one of its three forms."""
    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, *"abcdehlnorstuwJM.,"]
    merges = [(SPACE, "J"), (SPACE + "J", "o"), ("h", "n"), (SPACE + "Jo", "hn"), (SPACE, SPACE)]
    vocab = {token: i for i, token in enumerate([*letters, *(a + b for a, b in merges)])}
    backend = Backend(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if form == "normalizer":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
    else:
        scheme = {"prepend_scheme": form, "split": False}
        backend.pre_tokenizer = pre_tokenizers.Metaspace(**scheme)
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return backend


@pytest.mark.parametrize("form", ["normalizer", "always", "first"])
def test_pieces_have_no_space_between_them_that_no_one_wrote(form: str, tmp_path: Path) -> None:
    """Trust A6: a Llama-2 tokenizer doubled the space before every sentence."""
    backend = sentencepiece(form)
    assert backend.decode(backend.encode("He").ids) == "He"
    assert backend.encode("He").tokens[0] == SPACE
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.decode(loaded.encode(" John")) == " John"
    assert len(loaded.encode(" John")) == 1
    pieces = ["He ran.", " John ran.", "\nThe end", " John", ", 1.", "  two", ""]
    ids = [token for piece in pieces for token in loaded.encode(piece)]
    assert loaded.decode(ids) == "".join(pieces)
    loaded.check_round_trip([*pieces, "日本語\n\n Mary"])


def test_a_checkpoint_keeps_the_tokenizer_that_it_was_trained_with(tmp_path: Path) -> None:
    sentencepiece("normalizer").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "progress.json").write_text("{}")
    loaded = load_tokenizer(tmp_path)
    assert loaded.decode(loaded.encode("a") + loaded.encode(" John")) == "a  John"


def words(*vocabulary: str, **parts: object) -> Backend:
    vocab = {token: i for i, token in enumerate(vocabulary)}
    backend = Backend(models.WordLevel(vocab, unk_token=vocabulary[0]))
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


def byte_level(**parts: object) -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    for name, part in parts.items():
        setattr(backend, name, part)
    return backend


LOSSY = {
    "one token": words("[UNK]"),
    "no unknown words": words("[UNK]", "Mary", pre_tokenizer=pre_tokenizers.Whitespace()),
    "lower case": byte_level(normalizer=normalizers.Lowercase()),
    "no white space at the ends": byte_level(normalizer=normalizers.Strip()),
    "no accents": byte_level(normalizer=normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents()])),
    "no decoder": byte_level(decoder=None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSY)
def test_a_lossy_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    """Trust A6: with a tokenizer of one token every text had a perplexity of 1."""
    LOSSY[name].save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    with pytest.raises(
        ValueError, match=r"^text\.tokenizer: .* does not give a text back: '.*' bec"
    ):
        loaded.check_round_trip(["Mary", " Mary went.\n\n  Café"])


def test_a_tokenizer_may_collapse_white_space_and_compose(tmp_path: Path) -> None:
    """As T5's and Llama's do, which the papers use."""
    collapse = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    byte_level(normalizer=collapse).save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    loaded.check_round_trip([" Mary  went.\n\nﬁne"], most_lost=0)


def test_a_tokenizer_is_judged_by_the_text_in_use(tmp_path: Path) -> None:
    letters = {token: i for i, token in enumerate(["[UNK]", *"日月山水"])}
    backend = Backend(models.WordLevel(letters, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    loaded.check_round_trip(["日月山水" * 10, "山"])
    with pytest.raises(ValueError, match=r"'日火' becomes '日\[UNK\]'"):
        loaded.check_round_trip(["日月", "日火"])
    loaded.check_round_trip(["日月山水" * 50, "日火"])  # 1 of 202
    with pytest.raises(ValueError, match=r"text\.tokenizer: .* does not give a text back"):
        loaded.check_round_trip(["日月山水" * 50, "日火"], most_lost=0)
    with pytest.raises(ValueError, match=r"text\.tokenizer: .* does not give a text back"):
        shared_tokenizer(tmp_path)
    assert shared_tokenizer(tmp_path, asks=False) == loaded
