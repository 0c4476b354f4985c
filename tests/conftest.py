"""One thread a process: the tests' tensors are small, and pytest-xdist fills the other cores."""

import os
from collections.abc import Callable

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported


@pytest.fixture
def make_record() -> Callable:
    """Makes plausible records that are always the same; see made_records.py."""
    from made_records import record

    return record
