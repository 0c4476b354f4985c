"""The tally of each test: it fails if anything was lost, wrong or ended in a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_device import loop_device  # noqa: F401 (a fixture)
from tally import Tally
from tiny_run import PLACE, RUN, WORDS, Outcome, attempt, outcome

_ROWS: list[str] = []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def whole(place: Path, capfd: pytest.CaptureFixture[str]) -> Outcome:
    """The outcome of the run without a fault."""
    assert attempt(capfd, *WORDS, PLACE).code == 0
    found = outcome(place / RUN)
    shutil.rmtree(place / RUN)
    return found


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    found = Tally(request.node.name.removeprefix("test_").replace("_", " "))
    yield found
    _ROWS.append(found.row())
    assert found.count > 0, "nothing was tried"
    problems = [f"{kind}: {each}" for kind, those in found.found.items() for each in those]
    assert not problems, "\n".join(problems[:20])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of docs/reliability.md."""
    if _ROWS:
        head = ["| fault | tried | lost | wrong | tracebacks |", "|---|---:|---:|---:|---:|"]
        terminalreporter.write_line("\n".join([*head, *_ROWS]))
