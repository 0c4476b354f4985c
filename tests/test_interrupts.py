"""Signals and lost readers: work is saved first, and output never ends a run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from in_process import atlas_bench
from tiny_sweeps import TINY, steps_of

from atlas_bench.artifacts.folder import read_json
from atlas_bench.interrupts import SIGNALS, Interrupted, StopSignal
from atlas_bench.training.callbacks import MetricsFile, Training


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_that_ends_a_process_asks_to_stop(number: signal.Signals) -> None:
    def handler(_number: int, _frame: object) -> None:
        """Of a caller; the test itself may run under nohup, which ignores SIGHUP."""

    before = signal.signal(number, handler)
    try:
        with StopSignal() as stop:
            assert not stop()
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)  # a scheduler repeats itself
            signal.raise_signal(signal.SIGTERM)
            assert stop()
            assert stop.received == number
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_the_third_ctrl_c_does_not_wait() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="Windows has no SIGUSR2")
def test_a_launchers_handler_is_called_after_the_work_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit's, which requeues the job: no step is redone."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "mode=train", "training.checkpoint_every=100"]
    saved, write = [], MetricsFile.on_step

    def requeue(number: int, _frame: object) -> None:
        saved.append(read_json(tmp_path / "run/checkpoints/last.json")["step"])
        sys.exit(-1)

    def write_and_signal(self: MetricsFile, training: Training, metrics: dict) -> None:
        write(self, training, metrics)
        if training.progress.step == 3:
            signal.raise_signal(signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(MetricsFile, "on_step", write_and_signal)
            assert atlas_bench(*words, "hydra.run.dir=run") == -1
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved == [3]
    assert atlas_bench(*words, "resume=run") == 0
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_a_handler_is_called_only_if_work_was_stopped() -> None:
    called = []

    def end_with(error: Exception | None) -> None:
        with contextlib.suppress(ValueError, Interrupted), StopSignal():
            signal.raise_signal(signal.SIGUSR1)
            if error:
                raise error

    before = signal.signal(signal.SIGUSR1, lambda *_: called.append("handler"))
    try:
        for error in (None, ValueError()):
            end_with(error)
            assert called == []
        end_with(Interrupted())
        assert called == ["handler"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_run_goes_on_when_nobody_reads_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert atlas_bench(*TINY, "hydra.run.dir=run") == 0
    assert Path("run/record.json").is_file()
