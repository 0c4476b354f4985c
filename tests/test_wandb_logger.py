"""The W&B logger: whatever wandb does, the run goes on; offline it stays off the network."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atlas_bench.wandb_logger import RunLogger

ROWS = [
    {"subtask": "qa1", "length_name": "0k", "metric": "exact_match", "value": 1.0, "samples": 9},
    {"subtask": "qa1", "length_name": "1k", "metric": "exact_match", "value": 0.5, "samples": 9},
]


class FakeWandb:
    """Stands in for the module; ``broken`` names the call that fails, and how."""

    def __init__(self, broken: str = "", error: BaseException | None = None) -> None:
        self.broken, self.error = broken, error or RuntimeError("no service.\nSecond line")
        self.calls: list[str] = []
        self.logged: list[tuple[dict, int | None]] = []
        self.summary: dict[str, float] = {}
        self.saved: list[str] = []
        self.settings: dict[str, Any] = {}
        names = ("silent", "console", "disable_code", "x_disable_stats")
        self.Settings = type("Settings", (SimpleNamespace,), {"model_fields": names})

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.broken:
            raise self.error

    def init(self, **settings: Any) -> FakeWandb:
        self.settings = settings | {"environment": dict(os.environ)}
        self._call("init")
        return self

    def log(self, metrics: dict, step: int | None = None) -> None:
        self._call("log")
        self.logged.append((metrics, step))

    def Table(self, columns: list, data: list) -> tuple:
        self._call("Table")
        return columns, data

    def Image(self, path: str) -> str:
        return path

    def save(self, path: str, **_: Any) -> None:
        self.saved.append(path)

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code
        self._call("finish")

    def teardown(self) -> None:
        self._call("teardown")


def whole_run(logger: RunLogger, folder: Path) -> None:
    """What run.py does."""
    logger.start({"seed": 0}, "name", folder, group="group")
    for step in range(3):
        logger.log({"loss": 1.0 / (step + 1)}, step)
    logger.finish(folder / "record.json", ROWS, folder / "plot.png")


def test_a_run_is_logged_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = RunLogger("offline", project="mine")
    whole_run(logger, tmp_path / "run")
    assert not logger.active
    expected = {"project": "mine", "name": "name", "group": "group", "mode": "offline"}
    assert fake.settings.items() >= expected.items()
    assert fake.settings["dir"] == str(tmp_path / "run")
    settings = vars(fake.settings["settings"])
    assert settings == {
        "silent": True,
        "console": "off",
        "disable_code": True,
        "x_disable_stats": True,
    }
    assert fake.settings["environment"]["WANDB_SILENT"] == "true"
    assert [step for _, step in fake.logged] == [0, 1, 2, None]
    results = fake.logged[-1][0]
    assert results["scores"][1] == [list(row.values()) for row in ROWS]
    assert results["accuracy_over_length"] == str(tmp_path / "run" / "plot.png")
    assert fake.summary == {"exact_match/qa1/0k": 1.0, "exact_match/qa1/1k": 0.5}
    assert fake.saved == [str(tmp_path / "run" / "record.json")]
    assert fake.calls[-2:] == ["finish", "teardown"]
    assert fake.exit_code == 0


@pytest.mark.parametrize("error", [RuntimeError("no service.\nMore"), SystemExit(1), OSError()])
@pytest.mark.parametrize("broken", ["init", "log", "Table", "finish", "teardown"])
def test_no_failure_costs_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    error: BaseException,
) -> None:
    fake = FakeWandb(broken, error)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_DATA_DIR", "before")
    before = dict(os.environ)
    logger = RunLogger("online")
    with caplog.at_level(logging.WARNING):
        whole_run(logger, tmp_path)
    assert not logger.active
    assert dict(os.environ) == before
    (warning,) = caplog.messages
    assert warning.startswith("W&B logging is off from here (")
    assert "\n" not in warning
    assert broken in fake.calls
    assert "teardown" in fake.calls
    assert fake.calls.count("log") <= (1 if broken == "log" else 4)


def test_interrupts_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("init", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        RunLogger("online").start({}, "name", tmp_path)


def test_without_wandb_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    with caplog.at_level(logging.WARNING):
        whole_run(RunLogger("disabled"), tmp_path)
        assert caplog.messages == []
        whole_run(RunLogger("offline"), tmp_path)
    assert len(caplog.messages) == 1


def test_a_run_can_be_closed_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = RunLogger()
    logger.start({}, "name", tmp_path)
    logger.close(failed=True)
    logger.close()
    assert fake.exit_code == 1
    assert fake.calls == ["init", "finish", "teardown"]


# the real wandb, in a process of its own --------------------------------------------------------

SCRIPT = """
import json, logging, os, sys, time
from pathlib import Path
import psutil
from atlas_bench import wandb_logger
from atlas_bench.wandb_logger import RunLogger

wandb_logger.INIT_SECONDS = 2.0
logging.basicConfig(level="WARNING")
mode, folder, rows = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
plot = folder / "plot.png"
started = time.perf_counter()
logger = RunLogger(mode)
logger.start({"seed": 0, "model": {"name": "atlas"}}, "name", folder)
active = logger.active
for step in range(20):
    logger.log({"loss": 1.0 / (step + 1)}, step)
logger.finish(folder / "record.json", rows, plot)
left = [child.name() for child in psutil.Process().children(recursive=True)]
print(json.dumps({
    "active": active,
    "seconds": time.perf_counter() - started,
    "left": left,
    "variables": [name for name in os.environ if name in ("WANDB_DATA_DIR", "WANDB_SERVICE")],
}))
"""


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """A server that every address leads to, and that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


def really_run(mode: str, folder: Path, trap: socket.socket) -> tuple[dict, str, bool]:
    """What the script says, its stderr, and whether anybody came to the trap."""
    pytest.importorskip("wandb")
    from matplotlib.figure import Figure

    run, home = folder / "run", folder / "home"
    run.mkdir()
    home.mkdir()
    (run / "record.json").write_text("{}")
    Figure().savefig(run / "plot.png")
    address = f"http://127.0.0.1:{trap.getsockname()[1]}"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment = clean | {
        "HOME": str(home),
        "WANDB_BASE_URL": address,
        "WANDB_API_KEY": "a" * 40,
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode, str(run), json.dumps(ROWS)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    try:
        trap.accept()[0].close()
        came = True
    except BlockingIOError:
        came = False
    return json.loads(done.stdout), done.stderr, came


def test_offline_is_local_quick_and_leaves_no_process(tmp_path: Path, trap: socket.socket) -> None:
    said, errors, came = really_run("offline", tmp_path, trap)
    assert said["active"]
    assert errors == ""
    assert not came
    assert said["left"] == []
    assert said["variables"] == []
    assert said["seconds"] < 20  # 2 on an idle machine; a wait for a server would take longer
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert all(name.startswith("run/") for name in files), files
    assert any(name.endswith(".wandb") for name in files)
    assert any("/files/media/table/scores" in name for name in files)
    assert any("/files/media/images/accuracy_over_length" in name for name in files)


def test_online_without_an_answer_costs_seconds_and_one_sentence(
    tmp_path: Path, trap: socket.socket
) -> None:
    said, errors, came = really_run("online", tmp_path, trap)
    assert came  # so the trap would have caught the offline run too
    assert not said["active"]
    assert said["left"] == []
    assert errors.count("W&B logging is off") == 1
    assert errors.count("\n") == 1
