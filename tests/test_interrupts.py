"""Signals and lost readers: work is saved first, and output never ends a run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from in_process import atlas_bench
from tiny_sweeps import TINY

from atlas_bench.interrupts import SIGNALS, StopSignal


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_that_ends_a_process_asks_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop()
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)  # a scheduler repeats itself
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert stop.received == number
    assert signal.getsignal(number) == before


def test_the_third_ctrl_c_does_not_wait() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_signal_of_nohup_or_a_launcher_is_left_to_it(handler: object) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


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
