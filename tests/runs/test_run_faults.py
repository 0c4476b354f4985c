"""Faults performed on whole runs: signals, kills, lost readers and eight runs of one second.

pytest -m faults tests/runs/test_run_faults.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_sweeps import TINY, steps_of

from atlas_bench.artifacts.records import read_record

pytestmark = pytest.mark.faults
CODE = "from atlas_bench.cli.run import main; main()"
# Steps enough to be stopped within, and no checkpoint but those that a fault makes.
LONG = [*TINY, "mode=train", "training.tokens=8192", "training.checkpoint_every=100000"]
COMPARED = ("step", "loss", "gradient_norm", "learning_rate")


def start(*words: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words], cwd=folder, text=True, start_new_session=True,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def numbers(run: Path) -> list[list[float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [[json.loads(line)[key] for key in COMPARED] for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """The numbers of the run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(*LONG, "hydra.run.dir=run", folder=folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return numbers(folder / "run")


SIGNALS = ["SIGTERM SIGTERM", "SIGINT SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL"]


@pytest.mark.parametrize("signals", SIGNALS)
def test_no_signal_loses_a_step_or_changes_a_number(
    signals: str, tmp_path: Path, whole: list[list[float]]
) -> None:
    """Trust B14."""
    run, metrics = tmp_path / "run", tmp_path / "run/metrics.jsonl"
    process = start(*LONG, "hydra.run.dir=run", folder=tmp_path)
    wait_for(lambda: metrics.is_file() and len(metrics.read_bytes().splitlines()) > 10, process)
    for name in signals.split():  # several within one step
        os.kill(process.pid, signal.Signals[name])
    _, errors = process.communicate()
    assert "Traceback" not in errors
    number = signal.Signals[signals.split()[0]]
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        saved = json.loads((run / "checkpoints/last.json").read_text())["step"]
        assert saved == steps_of(run)[-1]  # no step is redone
    process = start(*LONG, "resume=run", folder=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert numbers(run) == whole
    assert len(read_record(run / "record.json").sessions) == 2


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_lost_reader_ends_no_run(stream: str, tmp_path: Path, whole: list[list[float]]) -> None:
    reader, writer = os.pipe()
    process = start(*LONG, "hydra.run.dir=run", folder=tmp_path, **{stream: writer})
    os.close(reader)
    os.close(writer)
    process.communicate()
    assert process.returncode == 0
    assert numbers(tmp_path / "run") == whole


def test_eight_runs_of_one_second_are_eight_runs(tmp_path: Path) -> None:
    """Trust B13: In folders of their own; in one folder, seven are refused and change nothing."""
    words = [*TINY, "mode=train"]
    for given in ((), ("hydra.run.dir=outputs/day/mine",)):
        processes = [start(*words, f"seed={seed}", *given, folder=tmp_path) for seed in range(8)]
        said = [each.communicate()[1] for each in processes]
        codes = [each.returncode for each in processes]
        assert "Traceback" not in "".join(said)
        assert sorted(codes) == ([0] + [2] * 7 if given else [0] * 8)
    runs = [path.parent for path in tmp_path.glob("outputs/*/*/record.json")]
    assert len(runs) == 9
    for run in runs:
        overrides = (run / ".hydra/overrides.yaml").read_text()
        assert f"seed={read_record(run / 'record.json').seed}" in overrides  # the winner's own
        assert steps_of(run) == [1, 2, 3, 4]
        assert not (run / "run.lock").exists()
