"""The console, and progress bars for work that takes long."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
