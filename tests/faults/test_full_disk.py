"""The disk is full, at several sizes, in a file system of its own in memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tally import Tally
from tiny_run import PLACE, RUN, WORDS, Outcome, attempt, judge_failure

pytestmark = pytest.mark.faults

KIBIBYTES = (8, 16, 32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512)


@pytest.fixture
def small_disk(place: Path, whole: Outcome) -> Iterator[Path]:
    """A tmpfs on the folder of the run, after the run without a fault."""
    (place / RUN).mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place / RUN)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place / RUN
    # Lazily: a log in it may still be open.
    subprocess.run(["umount", "--lazy", str(place / RUN)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def test_a_disk_that_fills_up(
    small_disk: Path, whole: Outcome, tally: Tally, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends in one sentence, and goes on to the same end once there is space."""
    for kibibytes in KIBIBYTES:
        for each in small_disk.iterdir():
            subprocess.run(["rm", "-rf", str(each)], check=True)
        resize(small_disk, f"{kibibytes}k")
        found = attempt(capfd, *WORDS, PLACE)
        where = f"{kibibytes} KiB"
        resize(small_disk, "64m")
        judge_failure(tally, where, found, whole, capfd)
