"""Trackers: whatever wandb does, the run continues; offline it does not use the network."""

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
from in_process import atlas_bench

from atlas_bench.tracking import TRACKERS, NoTracker, Tracker, make_tracker, wandb_tracker
from atlas_bench.tracking.wandb_tracker import WandbTracker

ROWS = [
    {"subtask": "qa1", "length_name": "0k", "metric": "exact_match", "value": 1.0, "samples": 9},
    {"subtask": "qa1", "length_name": "1k", "metric": "exact_match", "value": 0.5, "samples": 9},
]


class FakeArtifact:
    """What is put into an artifact, by name."""

    def __init__(self, name: str, type: str) -> None:
        self.name, self.type = name, type
        self.content: dict[str, Any] = {}

    def add(self, item: Any, name: str) -> None:
        self.content[name] = item

    def add_file(self, path: str) -> None:
        self.content[Path(path).name] = path


class FakeWandb:
    """Stands in for the module; ``broken`` names the call that fails, and how."""

    def __init__(self, broken: str = "", error: BaseException | None = None) -> None:
        self.broken, self.error = broken, error or RuntimeError("no service.\nSecond line")
        self.calls: list[str] = []
        self.logged: list[tuple[dict, int | None]] = []
        self.summary: dict[str, float] = {}
        self.artifacts: list[FakeArtifact] = []
        self.id = "fake"
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

    def Artifact(self, name: str, type: str) -> FakeArtifact:
        return FakeArtifact(name, type)

    def log_artifact(self, artifact: FakeArtifact) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code
        self._call("finish")

    def teardown(self) -> None:
        self._call("teardown")


def whole_run(tracker: Tracker, folder: Path) -> None:
    """What a run does."""
    tracker.start({"seed": 0}, "name", folder, group="group", job_type="train", tags=("atlas",))
    for step in range(3):
        tracker.log({"loss": 1.0 / (step + 1)}, step)
    tracker.finish(folder / "record.json", ROWS, [folder / "plot.png"], {"parameters": 7})


def test_a_run_is_logged_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = WandbTracker("offline", project="mine")
    whole_run(tracker, tmp_path / "run")
    assert not tracker.active
    expected = {
        "project": "mine", "name": "name", "group": "group", "mode": "offline", "resume": "allow",
        "job_type": "train", "tags": ["atlas"],
    }  # fmt: skip
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
    plot, record = (str(tmp_path / "run" / name) for name in ("plot.png", "record.json"))
    assert results["plot"] == plot
    scores = {"exact_match/qa1/0k": 1.0, "exact_match/qa1/1k": 0.5, "exact_match/mean": 0.75}
    assert fake.summary == {"parameters": 7, **scores}
    (artifact,) = fake.artifacts
    expected = {"scores": results["scores"], "plot.png": plot, "record.json": record}
    assert artifact.content == expected
    assert fake.calls[-2:] == ["finish", "teardown"]
    assert fake.exit_code == 0


def test_a_folder_has_one_run_whoever_goes_on_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    ids = []
    for folder in (tmp_path / "one", tmp_path / "one", tmp_path / "two"):
        tracker = WandbTracker()
        tracker.start({}, "name", folder)
        tracker.close(failed=True)
        ids.append(fake.settings["id"])
    assert ids[0] == ids[1] != ids[2]


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
    tracker = WandbTracker("online")
    with caplog.at_level(logging.WARNING):
        whole_run(tracker, tmp_path)
    assert not tracker.active
    assert dict(os.environ) == before
    (warning,) = caplog.messages
    assert warning.startswith("W&B logging is off from here (")
    assert "\n" not in warning
    assert broken in fake.calls
    assert "teardown" in fake.calls
    assert fake.calls.count("log") <= (1 if broken == "log" else 4)


@pytest.mark.parametrize("hanging", ["init", "log", "finish", "teardown"])
def test_a_service_that_hangs_costs_the_time_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hanging: str,
) -> None:
    """Trust B15."""

    class HangingWandb(FakeWandb):
        """Each call of ``hanging`` waits for a process until somebody ends that."""

        def _call(self, name: str) -> None:
            super()._call(name)
            if name == hanging and self.calls.count(name) == 1:
                service = tmp_path / "wandb-core"
                service.symlink_to(Path(sys.executable).resolve())
                sleep = [service, "-ISc", "import time; time.sleep(60)"]
                subprocess.run(sleep, check=True)

    monkeypatch.setattr(wandb_tracker, "LIMIT_SECONDS", 0.2)
    monkeypatch.setitem(sys.modules, "wandb", HangingWandb())
    tracker = WandbTracker()
    with caplog.at_level(logging.WARNING):
        whole_run(tracker, tmp_path)
    assert not tracker.active
    (warning,) = caplog.messages
    assert "failed: no answer from wandb's process in 0.2 seconds); the run continues" in warning


def test_interrupts_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("init", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        WandbTracker("online").start({}, "name", tmp_path)


def test_without_wandb_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    with caplog.at_level(logging.WARNING):
        whole_run(WandbTracker("disabled"), tmp_path)
        assert caplog.messages == []
        whole_run(WandbTracker("offline"), tmp_path)
    assert len(caplog.messages) == 1


def test_a_run_can_be_closed_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = WandbTracker()
    tracker.start({}, "name", tmp_path)
    tracker.close(failed=True)
    tracker.close()
    assert fake.exit_code == 1
    assert fake.calls == ["init", "finish", "teardown"]


def test_the_config_chooses_a_tracker(tmp_path: Path) -> None:
    assert isinstance(make_tracker("wandb", mode="disabled", project="mine"), WandbTracker)
    tracker = make_tracker("none", mode="disabled", project="mine")
    assert isinstance(tracker, NoTracker)
    whole_run(tracker, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert set(TRACKERS) == {"none", "wandb"}


NEW_TRACKER = """
import json
from atlas_bench.tracking import NoTracker

class LinesTracker(NoTracker):
    def start(self, config, name, directory, **facts):
        self.path = directory / "lines.json"

    def finish(self, record_path, table_rows, plots=(), facts={}):
        self.path.write_text(json.dumps([row["metric"] for row in table_rows]))
"""


def test_a_new_tracker_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines_tracker.py").write_text(NEW_TRACKER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "lines", "lines_tracker:LinesTracker")
    monkeypatch.chdir(tmp_path)
    words = ["task=mqar", "task.grid=[{length:32,pairs:4}]", "task.train_examples=8"]
    words += ["task.test_examples=4", "task.vocab_size=64", "training.min_sequences=4"]
    words += ["training.epochs=1", "model=deltanet", "scale.width=16", "scale.layers=1"]
    words += ["scale.heads=2", "hardware=cpu", "logger.name=lines", "hydra.run.dir=run"]
    assert atlas_bench(*words) == 0
    assert json.loads((tmp_path / "run/lines.json").read_text()) == ["accuracy"]


def test_an_unknown_tracker_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert atlas_bench("logger.name=wandbb") == 2
    expected = "logger.name=wandbb is not one of none, wandb (did you mean wandb?)"
    assert expected in capsys.readouterr().err


# the real wandb, in a process of its own --------------------------------------------------------

SCRIPT = """
import json, logging, os, sys, time
from pathlib import Path
import psutil
from atlas_bench.tracking import wandb_tracker
from atlas_bench.tracking.wandb_tracker import WandbTracker

wandb_tracker.INIT_SECONDS = 2.0
logging.basicConfig(level="WARNING")
mode, is_stopped = sys.argv[1].replace("stopped", "offline"), sys.argv[1] == "stopped"
folder, rows = Path(sys.argv[2]), json.loads(sys.argv[3])
plot = folder / "plot.png"
started = time.perf_counter()
config = {"seed": 0, "model": {"name": "atlas"}}
for steps in (range(20), range(20, 30)) if mode == "offline" else (range(20),):
    tracker = WandbTracker(mode)
    tracker.start(config, "name", folder, group="sweep", job_type="train", tags=("atlas",))
    active = tracker.active
    for step in steps:
        tracker.log({"loss": 1.0 / (step + 1)}, step)
    if steps.stop == 20 and mode == "offline":
        tracker.close(failed=True)
if is_stopped:
    wandb_tracker.LIMIT_SECONDS = 2.0
    for child in psutil.Process().children():
        child.suspend()
tracker.finish(folder / "record.json", rows, [plot], {"parameters": 7})
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


def read_records(run: Path) -> list[Any]:
    """The records of an offline run's file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run.glob("*.wandb")
    data, offset, parts, records = path.read_bytes(), 7, b"", []
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:  # no room for a header: the block is filled up
            offset += left
            continue
        size = int.from_bytes(data[offset + 4 : offset + 6], "little")
        kind, start = data[offset + 6], offset + 7
        parts += data[start : start + size]
        offset = start + size
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    return records


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
    (identity,) = (tmp_path / "run/wandb_id.txt").read_text().split()
    parts = sorted(tmp_path.glob("run/wandb/offline-run-*"))
    assert len(parts) == 2  # it was stopped and went on as the same run
    assert all(identity in part.name for part in parts)  # two of one second get a number
    assert any("/files/media/table/scores" in name for name in files)
    assert any("/files/media/images/plot" in name for name in files)
    records = [record for part in parts for record in read_records(part)]
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.run_group, run.job_type) for run in runs} == {
        (identity, "sweep", "train")
    }
    steps = [record.history.step.num for record in records if record.HasField("history")]
    assert steps[:30] == list(range(30))
    artifacts = [
        record.request.log_artifact.artifact if record.HasField("request") else record.artifact
        for record in records
    ]
    files = {entry.path for each in artifacts for entry in each.manifest.contents}
    assert files >= {"plot.png", "record.json", "scores.table.json"}
    assert sum(record.HasField("exit") for record in records) == 2
    # What `wandb sync` finds; it uploads both parts to the one run.
    found = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", *map(str, parts)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert all(part.name in found.stdout + found.stderr for part in parts)


def test_online_without_an_answer_costs_seconds_and_one_sentence(
    tmp_path: Path, trap: socket.socket
) -> None:
    said, errors, came = really_run("online", tmp_path, trap)
    assert came  # so the trap would have caught the offline run too
    assert not said["active"]
    assert said["left"] == []
    assert errors.count("W&B logging is off") == 1
    assert errors.count("\n") == 1


@pytest.mark.faults
def test_a_stopped_service_costs_the_time_limit_and_one_sentence(
    tmp_path: Path, trap: socket.socket
) -> None:
    said, errors, _ = really_run("stopped", tmp_path, trap)
    assert said["active"]
    assert said["seconds"] < 20
    assert "finish failed: no answer from wandb's process in 2.0 seconds)" in errors
    assert errors.count("\n") == 1
