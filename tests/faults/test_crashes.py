"""A run is killed, or loses power, before each of its file operations; a write, rename or sync
fails. It goes on to the same end, or says in one sentence what is wrong."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from loop_device import LoopDevice
from tally import Tally
from tiny_run import (
    PLACE,
    RUN,
    WORDS,
    Attempt,
    Outcome,
    attempt,
    finish,
    judge,
    judge_failure,
    outcome,
)
from watched_disk import Crashes, Operation, PowerCuts, watching, write_tree

pytestmark = pytest.mark.faults


def bury_the_owner(lock: Path) -> None:
    """Name a process that has ended, as the killed one would have; here it is this one."""
    if lock.is_file():
        ended = lock.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {2**22 - 1}')
        lock.write_text(ended)
        os.utime(lock, (0, 0))


def go_on_from_each(
    states: Crashes | PowerCuts | LoopDevice, tally: Tally, whole: Outcome, capfd, place: Path
) -> None:
    """Run once while ``states`` are gathered, and go on from each of them."""
    with watching(place, states):
        assert attempt(capfd, *WORDS, PLACE).code == 0
    for where, tree in states.trees.values():
        shutil.rmtree(place / RUN, ignore_errors=True)
        write_tree(tree, place)
        bury_the_owner(place / RUN / "run.lock")
        judge(tally, where, finish(capfd), whole)


def test_a_kill_before_each_operation(
    place: Path, whole: Outcome, tally: Tally, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trust B10."""
    go_on_from_each(Crashes(place), tally, whole, capfd, place)


def test_a_power_cut_before_each_operation(
    place: Path, whole: Outcome, tally: Tally, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trust B9."""
    with closing(PowerCuts(place)) as cuts:
        go_on_from_each(cuts, tally, whole, capfd, place)


def test_a_power_cut_of_a_loop_device(
    loop_device: LoopDevice, tally: Tally, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Trust B9, on a real file system."""
    monkeypatch.chdir(loop_device.root)
    assert attempt(capfd, *WORDS, PLACE).code == 0
    whole = outcome(loop_device.root / RUN)
    shutil.rmtree(loop_device.root / RUN)
    go_on_from_each(loop_device, tally, whole, capfd, loop_device.root)
    monkeypatch.undo()  # nobody stands on the disk when it is unmounted


@pytest.mark.parametrize("kind", ["write", "append", "rename", "fsync", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_each_operation_fails_once(
    kind: str, number: int, place: Path, whole: Outcome, tally: Tally, capfd
) -> None:
    def failing_at(turn: int) -> Attempt:
        seen = 0

        def called(operation: Operation) -> None:
            nonlocal seen
            if operation[0] == kind:
                seen += 1
                if seen == turn:
                    raise OSError(number, "No space left on device", str(operation[1]))

        with watching(place, called):
            found = attempt(capfd, *WORDS, PLACE)
        return found if seen >= turn else None

    turn = 1
    while (found := failing_at(turn)) is not None:
        where = f"{kind} {turn}"
        judge_failure(tally, where, found, whole, capfd)
        shutil.rmtree(place / RUN, ignore_errors=True)
        turn += 1
