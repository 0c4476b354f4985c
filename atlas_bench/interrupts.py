"""Stop on a signal without losing anything."""

from __future__ import annotations

import signal


class Interrupted(Exception):
    """A signal asked to stop; the code that raises this has saved its work."""


class StopSignal:
    """Remembers SIGINT and SIGTERM, so that work stops at the next step; a second signal kills."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> StopSignal:
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: a launcher handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def __call__(self) -> bool:
        return self.received is not None
