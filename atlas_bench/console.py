"""The console, and progress bars for work that takes long."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

NO_READER = (errno.EPIPE, errno.EIO, errno.EINVAL)  # a pipe, a terminal, a pipe on Windows


def plain_console() -> Console:
    """A console that prints overrides and paths as they are: brackets are not markup."""
    return Console(markup=False, emoji=False)


def progress_bars(console: Console) -> Progress:
    """Bars with counts, times and a note; nothing if the output is not a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def dropping_unread_output() -> Iterator[None]:
    """Drop output that nobody reads any more, as after ``| head -1`` or a lost connection, instead
    of ending the run."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (each and _Dropping(each) for each in before)  # None: it is closed
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Dropping:
    """A text stream that writes to nowhere once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Write to nowhere from now on, also what the stream still holds."""
        if error.errno not in NO_READER:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
