"""One process at a time works on a run, and a killed one blocks nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from atlas_bench.artifacts.folder import write_json
from atlas_bench.artifacts.lock import AlreadyRunning, holder, locked, this_process


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run/run.lock"


def test_a_lock_names_its_owner_and_goes_with_it(lock: Path) -> None:
    with locked(lock):
        assert holder(lock) == this_process()
        with pytest.raises(AlreadyRunning, match=f"is already running, as process {os.getpid()}"):
            locked(lock).__enter__()
    assert list(lock.parent.iterdir()) == []


def test_a_killed_process_leaves_a_lock_that_is_taken_over(lock: Path) -> None:
    code = (
        "import sys, pathlib, time; from atlas_bench.artifacts.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(lock)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(AlreadyRunning, match=f"as process {process.pid} on"):
        locked(lock).__enter__()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet collected
    with locked(lock):
        assert holder(lock) == this_process()
    process.communicate()


def test_a_later_process_with_the_same_id_is_another(lock: Path) -> None:
    write_json(lock, asdict(replace(this_process(), started=this_process().started - 100)))
    assert holder(lock) is None
    with locked(lock):
        assert holder(lock) == this_process()


def test_a_process_of_another_machine_is_named_with_what_to_do(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(lock, asdict(replace(this_process(), host="node7", slurm_job="12")))
    said = f"process {os.getpid()} on node7; if that process has ended, delete {lock}"
    with pytest.raises(AlreadyRunning, match=said):
        locked(lock, wait=True).__enter__()
    monkeypatch.setenv("SLURM_JOB_ID", "12")  # requeued: it has ended there
    with locked(lock):
        assert holder(lock) == this_process()


def test_a_lock_that_a_power_cut_emptied_is_taken_over(lock: Path) -> None:
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (0, 0))
    with locked(lock):
        assert holder(lock) == this_process()


def test_one_of_many_takes_over(lock: Path) -> None:
    write_json(lock, asdict(replace(this_process(), started=0.0)))
    code = (
        "import sys, pathlib; from atlas_bench.artifacts.lock import locked\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, **pipes, text=True) for _ in range(4)]
    for each in processes:
        assert each.stdout.readline() == "ready\n"
    for each in processes:
        each.stdin.write("\n")
        each.stdin.flush()
    said = [each.stdout.readline() for each in processes]  # "" once a process was refused
    assert sorted(said) == ["", "", "", "held\n"]
    for each in processes:
        each.communicate("\n")
    assert not lock.exists()
