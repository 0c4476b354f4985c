"""The user's own text: a folder of .txt files, decoded rightly or refused in one sentence."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

# They are held in memory, and tokenising takes several times their size.
MOST_BYTES = 500_000_000
# A file without a byte order mark is UTF-8. The marks of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class CorpusError(ValueError):
    """A corpus is unavailable; the message is one sentence that names the key to change."""


def text_files(folder: str | Path | None) -> list[Path]:
    """The .txt files of ``folder``, sorted, without the ``._NAME`` files that macOS leaves.

    Raises CorpusError if there are none, if one is not a regular file, or if they are too large.
    """
    if folder is None:
        raise CorpusError(
            "text.folder: text.source=folder needs the path of a folder of .txt files"
        )
    path = Path(folder)
    try:
        path = path.expanduser()
        if not path.is_dir():
            raise CorpusError(f"text.folder: there is no folder {path}")
        names = sorted(each for each in path.iterdir() if each.suffix == ".txt")
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user without a home
        raise _unreadable(path, error) from error
    files = [each for each in names if not each.name.startswith("._")]
    if not files:
        raise CorpusError(f"text.folder: {path} contains no .txt file")
    size = sum(map(_size, files))
    if size > MOST_BYTES:
        raise CorpusError(
            f"text.folder: {path} holds {size / 1e6:,.0f} MB of text, but at most "
            f"{MOST_BYTES / 1e6:,.0f} MB are held in memory; take fewer files, or for task=lm "
            f"text.source=stream with Parquet or JSON Lines"
        )
    return files


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Line ends become ``\\n``. Raises CorpusError for another encoding and for what is not text.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"text.folder: {file} is not {encoding.removesuffix('-sig').upper()} (byte "
            f"{content[error.start]:#04x} at {error.start}); convert it, for instance from Latin-1 "
            f"with iconv -f latin1 -t utf-8, or remove it"
        ) from error
    if "\0" in text:
        raise CorpusError(
            f"text.folder: {file} contains NUL bytes, so it is not text, or UTF-16 without a byte "
            f"order mark; convert it to UTF-8, or remove it"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _size(file: Path) -> int:
    """Bytes of a regular file; reading a device or a pipe might never end."""
    try:
        status = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise CorpusError(f"text.folder: {file} is not a regular file; remove it from the folder")
    return status.st_size


def _unreadable(path: Path, error: OSError | RuntimeError) -> CorpusError:
    return CorpusError(
        f"text.folder: {path} cannot be read: {getattr(error, 'strerror', None) or error}"
    )
