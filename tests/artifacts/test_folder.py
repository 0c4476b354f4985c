"""A run's folder: writes that replace a file in one step, and what is removed from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atlas_bench.artifacts.folder import (
    RunFolder,
    UnreadableFile,
    append_lines,
    read_json,
    read_json_if_valid,
    replacing,
    truncate_metrics,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"seed": 0})
    with pytest.raises(TypeError):
        write_json(path, {"seed": object()})
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert read_json(path) == {"seed": 0}
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


def test_bytes_and_name_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust B9: the file before the rename, its folder after, so that a crash leaves old or new."""
    synced, fsync = [], os.fsync

    def remember(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name, (tmp_path / "config.json").exists()))
        fsync(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the test reads the names of open files from /proc")
    monkeypatch.setattr(os, "fsync", remember)
    write_json(tmp_path / "config.json", {})
    (temporary, before), (folder, after) = synced
    assert temporary.startswith(".config.json.")
    assert not before
    assert folder == tmp_path.name
    assert after


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with replacing(tmp_path / "step") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["step", "step/new"]


def test_json_that_cannot_be_read_is_named_in_one_sentence(tmp_path: Path) -> None:
    missing, damaged, other = (tmp_path / name for name in ("missing", "damaged", "other"))
    damaged.write_text('{"seed":')
    other.write_text("[1]")
    for path, reason in (
        (missing, "cannot be read: No such file or directory"),
        (damaged, "is not valid JSON: Expecting value"),
        (other, "does not hold a JSON object"),
    ):
        with pytest.raises(UnreadableFile, match=f"{path} {reason}"):
            read_json(path)
        assert read_json_if_valid(path) is None


def test_metrics_end_at_a_step_and_lose_an_incomplete_line(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).metrics
    append_lines(path, [{"step": step} for step in (1, 2, 3)])
    with path.open("a") as file:
        file.write('{"step": 2')
    truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_folder_left_before_a_run_began_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs/2025-01-31/12-00-00-atlas")
    (folder.path / ".hydra").mkdir(parents=True)
    (folder.path / ".hydra/config.yaml").touch()
    (folder.path / "atlas-bench.log").touch()
    (tmp_path / "outputs/.gitkeep").touch()
    folder.discard()
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [".gitkeep"]


@pytest.mark.parametrize("name", ["config.json", "record.json", "job.json", "notes.txt"])
def test_a_folder_that_holds_more_is_kept(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / "atlas-bench.log").touch()
    (folder.path / name).touch()
    folder.discard()
    assert (folder.path / name).is_file()
    assert (folder.path / "atlas-bench.log").exists() == (name != "notes.txt")
