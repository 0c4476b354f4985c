"""A run gets signals at several moments, loses its reader, or is killed; what it did is kept."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import atlas_bench
from tally import Tally
from tiny_run import PLACE, RUN, WORDS, Attempt, Outcome, finish, has_checkpoint, judge

pytestmark = pytest.mark.faults

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL")
SECONDS = 120  # that a moment may take to come
# The server has imported everything, so a run starts in the time of a fork.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["in_process"])


def start(folder: Path, *, reader: bool = True) -> multiprocessing.Process:
    """The run in a process of its own; without ``reader`` its standard output is a closed pipe."""
    process = PROCESSES.Process(target=_run, args=(folder, reader))
    process.start()
    return process


def _run(folder: Path, reader: bool) -> None:
    os.setsid()
    os.chdir(folder)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 2)
    if reader:
        os.dup2(said, 1)
    else:
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(read)
        os.close(write)
    os._exit(atlas_bench(*WORDS, PLACE) & 255)


def lines_of_metrics(count: int) -> Callable[[Path], bool]:
    def reached(run: Path) -> bool:
        path = run / "metrics.jsonl"
        return path.is_file() and len(path.read_bytes().splitlines()) >= count

    return reached


def evaluating(run: Path) -> bool:
    return (run / "predictions.jsonl").is_file()


MOMENTS = {
    "before the first step": lambda run: (run / "config.json").is_file(),
    "after step 1": lines_of_metrics(1),
    "after step 3": lines_of_metrics(3),
    "after the checkpoint of step 4": lambda run: (run / "checkpoints/step-00000004").is_dir(),
    "while it evaluates": evaluating,
}


def wait(process: multiprocessing.Process, reached: Callable[[Path], bool], run: Path) -> None:
    ends = time.monotonic() + SECONDS
    while process.is_alive() and not reached(run):
        assert time.monotonic() < ends
        time.sleep(0.001)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("times", [1, 3])
def test_a_signal(name: str, times: int, place: Path, whole: Outcome, tally: Tally, capfd) -> None:
    for moment, reached in MOMENTS.items():
        process = start(place)
        wait(process, reached, place / RUN)
        for _ in range(times):
            if process.is_alive():
                os.kill(process.pid, getattr(signal, name))
                time.sleep(0.002)
        process.join(SECONDS)
        where = f"{times} {name} {moment}"
        said = (place / "said").read_text() if (place / "said").exists() else ""
        if "Traceback" in said:
            tally.tried(where)
            tally.traceback(where, said)
        elif (
            times == 1
            and name != "SIGKILL"
            and process.exitcode
            and not (has_checkpoint(place / RUN) or moment == "before the first step")
        ):
            tally.tried(where)
            tally.lost(where, f"no checkpoint: {said}")
        else:
            judge(tally, where, finish(capfd), whole)
        shutil.rmtree(place / RUN, ignore_errors=True)


def test_nobody_reads_the_output(place: Path, whole: Outcome, tally: Tally) -> None:
    process = start(place, reader=False)
    process.join(SECONDS)
    judge(tally, "a closed pipe", Attempt(process.exitcode, (place / "said").read_text()), whole)
