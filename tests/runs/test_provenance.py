"""What a record says of where its numbers come from."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
import torch
from in_process import atlas_bench
from tiny_sweeps import TINY

from atlas_bench.artifacts.records import read_record
from atlas_bench.runs import provenance
from atlas_bench.runs.provenance import cpu_name, git_commit


def test_a_record_names_every_process_that_worked_on_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "mode=train"]
    assert atlas_bench(*words, "hydra.run.dir=run") == 0
    Path("run/record.json").unlink()
    with Path("run/sessions.jsonl").open("a") as file:
        file.write('{"started_at": "20\n')  # killed as it wrote
    monkeypatch.setattr("atlas_bench.runs.execute.git_commit", lambda: "other")
    assert atlas_bench(*words, "resume=run") == 0
    first, second = read_record(Path("run/record.json")).sessions
    assert first["command"].startswith("atlas-bench model=deltanet scale=tiny task=mqar 'task.grid")
    assert second["command"] == f"{first['command']} resume=run"
    assert (first["git_commit"], second["git_commit"]) == (git_commit(), "other")
    assert first["started_at"] <= second["started_at"]
    for session in (first, second):
        assert session["os"] == platform.platform()
        assert session["host"] == platform.node()
        assert session["cpu"] == cpu_name()
        assert session["precision"] == "float32"
        assert session["versions"]["torch"] == torch.__version__


def test_a_repository_around_an_environment_is_not_the_source(tmp_path: Path) -> None:
    """A wheel in .venv of another project must not be recorded with that project's commit."""
    installed = tmp_path / "lib/provenance.py"
    installed.parent.mkdir()
    installed.touch()
    (tmp_path / "theirs").touch()
    for arguments in (
        ["init", "--quiet"],
        ["add", "theirs"],
        ["-c", "user.name=x", "-c", "user.email=x", "commit", "--quiet", "-m", "theirs"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert git_commit(tmp_path / "theirs") is not None
    assert git_commit(installed) is None


def test_a_wheel_names_the_commit_that_it_was_built_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "commit.txt").write_text("0123abc\n")
    monkeypatch.setattr(provenance, "COMMIT_OF_WHEEL", tmp_path / "commit.txt")
    assert git_commit() == "0123abc"
