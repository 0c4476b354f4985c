"""Freeze the golden runs again: PYTHONPATH=tests python tests/golden/freeze.py [NAME ...]

Only for a change that is meant to change numbers or the record's form, with the reason in the
commit message; never to make a test pass whose failure is not understood. On another machine than
that of the last freeze all runs must be frozen together.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import golden_runs
from frozen_files import EXPECTED, MACHINE, collect, machine, same_machine, write_frozen


def main(names: list[str]) -> None:
    """Run and freeze the goldens ``names``, or all."""
    own = [name for name, golden in golden_runs.GOLDENS.items() if golden.equals is None]
    if unknown := [name for name in names if name not in own]:
        sys.exit(f"{unknown[0]} is not one of {', '.join(own)}")
    if names and not same_machine():
        sys.exit("this is not the machine of the last freeze; freeze all runs, without names")
    EXPECTED.mkdir(exist_ok=True)
    MACHINE.write_text(json.dumps(machine(), indent=1) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in names or own:
            needed = golden_runs.GOLDENS[name].needs
            if needed is not None and not Path(needed).is_dir():
                golden_runs.run(needed)
            if not Path(name).is_dir():
                golden_runs.run(name)
            write_frozen(name, collect(Path(folder, name)))


if __name__ == "__main__":
    main(sys.argv[1:])
