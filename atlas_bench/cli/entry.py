"""The end of every command: an exit code, and one sentence for what its user can mend."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable

from atlas_bench.config.errors import ConfigError
from atlas_bench.console import dropping_unread_output
from atlas_bench.naming import one_line, printable

BAD_INPUT = 2
LONGEST = 400  # characters of another package's message
FREE_SPACE = "; free some space, then continue the run with resume=true"
OTHER_FOLDER = "; choose another folder with output_dir=PATH, in a report with --output PATH"
REMEDIES = {
    errno.ENOSPC: FREE_SPACE,
    errno.EDQUOT: FREE_SPACE,
    errno.EFBIG: "; raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "; choose a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR), OTHER_FOLDER),
    **dict.fromkeys((errno.EEXIST, errno.EISDIR), OTHER_FOLDER),
}
SMALLER = "use a smaller scale, training.batch_tokens or hardware.batch_tokens"
# torch has no type for a lack of a CPU's memory; Rust libraries give the number of an OSError.
_NO_MEMORY = re.compile("can't allocate memory|out of memory|can't start new thread")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def exit_code(command: str, work: Callable[[], int | None]) -> int:
    """Do the ``work`` of a command and return its exit code.

    Wrong input, a file that cannot be used and a lack of memory end in one sentence on stderr and
    code 2, Ctrl-C in one and code 130. Other errors are faults of the program and are raised.
    """
    with dropping_unread_output():
        try:
            return work() or 0
        except Exception as error:
            reason = explain(error)
            if reason is None:
                raise
            print(f"{command}: {printable(reason)}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print(f"{command}: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT


def explain(error: Exception) -> str | None:
    """What is wrong and what to do about it; None for a fault of the program."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # logging could not open its file
    message = one_line(error, LONGEST)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(message):
        return f"out of memory{message and ': '}{message}; {SMALLER}"
    in_rust = _OS_ERROR.search(message)
    if not isinstance(error, OSError) and in_rust is None:
        return None
    number = int(in_rust[1]) if in_rust else error.errno
    what = os.strerror(number) if number else f"{type(error).__name__}: {message}"
    notes = getattr(error, "__notes__", [])  # the last one names the file that was to be written
    where = notes[-1] if notes else getattr(error, "filename", None)
    return ": ".join(filter(None, (where, what))) + REMEDIES.get(number, "")
