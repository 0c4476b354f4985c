"""The user's own text: decoded rightly or refused in one sentence that names the file (A6, C17)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atlas_bench.text import files
from atlas_bench.text.corpora import load_corpus
from atlas_bench.text.files import CorpusError, read_text, text_files
from atlas_bench.text.settings import TextSettings, check_text
from atlas_bench.text.tokenizer import load_tokenizer

TEXT = "Grüße aus Köln.\n“Ein Satz”, sagt sie. 你好。\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be-mark", "crlf"]
)
def test_text_with_a_byte_order_mark_is_decoded(tmp_path: Path, encoding: str) -> None:
    content = {
        "utf-16-be-mark": ("\ufeff" + TEXT).encode("utf-16-be"),
        "crlf": TEXT.replace("\n", "\r\n").encode(),
    }.get(encoding)
    (tmp_path / "x.txt").write_bytes(content or TEXT.encode(encoding))
    assert read_text(tmp_path / "x.txt") == TEXT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Grüße".encode("latin-1"), r"x\.txt is not UTF-8 \(byte 0xfc at 2\); convert it"),
        ("“cp1252”".encode("cp1252"), r"x\.txt is not UTF-8 \(byte 0x93 at 0\)"),
        (b"\x1f\x8b\x08\x00 gzip", r"x\.txt is not UTF-8"),
        ("Plain text".encode("utf-16-le"), r"x\.txt contains NUL bytes, so it is not text, or"),
        (b"one\0two", r"x\.txt contains NUL bytes"),
        (b"\xff\xfea\0b", r"x\.txt is not UTF-16"),
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=r"^text\.folder: .*" + said) as error:
        load_corpus("folder", folder=tmp_path)
    assert "\n" not in str(error.value)


def test_the_files_of_macos_beside_the_texts_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "._x.txt").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    with pytest.raises(CorpusError, match=r"contains no \.txt file"):
        text_files(tmp_path)
    (tmp_path / "x.txt").write_text(TEXT)
    assert text_files(tmp_path) == [tmp_path / "x.txt"]


def make(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "broken link": "nowhere"}[kind])


@pytest.mark.parametrize("kind", ["folder", "FIFO", "device", "broken link"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    make(tmp_path / "x.txt", kind)
    said = "cannot be read: No such file" if kind == "broken link" else "is not a regular file"
    with pytest.raises(CorpusError, match=rf"^text\.folder: .*x\.txt {said}"):
        check_text(TextSettings(source="folder", folder=str(tmp_path)))


def test_a_text_that_does_not_fit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.txt").open("wb") as file:
        file.truncate(10**9)  # sparse
    with pytest.raises(CorpusError, match=r"holds 1,000 MB of text, but at most 500 MB"):
        text_files(tmp_path)


@pytest.mark.parametrize("method", ["iterdir", "is_dir", "stat", "read_bytes"])
def test_unreadable_files_are_named(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root reads everything, so the errors are made here."""
    (tmp_path / "x.txt").write_text(TEXT)

    def denied(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, method, denied)
        with pytest.raises(CorpusError, match=r"^text\.folder: .* cannot be read: Permission den"):
            load_corpus("folder", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("x" * 300, "File name too long"), ("~no-such-user/x", "Could not determine home directory")],
)
def test_names_that_the_system_refuses(name: str, said: str) -> None:
    with pytest.raises(CorpusError, match=rf"^text\.folder: {name} cannot be read: {said}"):
        text_files(name)
    with pytest.raises(ValueError, match=rf"^text\.tokenizer: {name} cannot be read: {said}"):
        load_tokenizer(name)


def test_a_folder_in_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.txt").write_text(TEXT)
    assert text_files("~") == [tmp_path / "x.txt"]
