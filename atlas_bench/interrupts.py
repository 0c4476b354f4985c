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
    that are ignored (nohup's SIGHUP) stay so. Where a launcher handles a SIGHUP, SIGUSR1 or
    SIGUSR2, its handler is called after the work is saved: that of submitit requeues the job.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._presses = 0

    def __enter__(self) -> StopSignal:
        self._before = {}
        for number in SIGNALS:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: a launcher handles signals
                break
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        handler = self._before.get(self.received)
        is_launchers = self.received not in (signal.SIGINT, signal.SIGTERM) and callable(handler)
        if is_launchers and kind is not None and issubclass(kind, Interrupted):
            handler(self.received, None)

    def _note(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            self._presses += 1
            if self._presses >= PATIENCE:
                raise KeyboardInterrupt
        if self.received is None:
            self.received = number

    def __call__(self) -> bool:
        return self.received is not None
