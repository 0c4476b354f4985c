"""Stop on a signal without losing anything."""

from __future__ import annotations

import signal

# Those that ask a process to end; Windows lacks the last three.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
PATIENCE = 3  # the third Ctrl-C ends the process without saving


class Interrupted(Exception):
    """A signal asked to stop; the code that raises this has saved its work."""


class StopSignal:
    """Remembers the first signal, so that work is saved and stops at the next step.

    Further signals change nothing, except the third Ctrl-C, which raises KeyboardInterrupt. Signals
    that are ignored (nohup's SIGHUP) or that a launcher handles (submitit's SIGUSR2) stay as they
    are; SIGTERM is always taken.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._presses = 0

    def __enter__(self) -> StopSignal:
        self._before = {}
        for number in SIGNALS:
            before = signal.getsignal(number)
            ours = number in (signal.SIGINT, signal.SIGTERM) or before == signal.SIG_DFL
            if not ours or before == signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: a launcher handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            self._presses += 1
            if self._presses >= PATIENCE:
                raise KeyboardInterrupt
        if self.received is None:
            self.received = number

    def __call__(self) -> bool:
        return self.received is not None
