"""The end of every command: disk, memory and files in one sentence, exit code 2 (C17)."""

from __future__ import annotations

import errno
import logging.config
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from in_process import atlas_bench

from atlas_bench.artifacts.folder import append_lines, write_json
from atlas_bench.artifacts.records import RecordError
from atlas_bench.cli.entry import exit_code, explain
from atlas_bench.runs import execute

TINY = [
    "task=mqar", "task.grid=[{length:32,pairs:4}]", "task.train_examples=64",
    "task.test_examples=4", "task.vocab_size=64", "training.min_sequences=4", "training.epochs=1",
    "model=deltanet", "scale.width=16", "scale.layers=1", "scale.heads=2", "hardware=cpu",
    "logger=none",
]  # fmt: skip
SIZES = [f"size={4 * pages}k" for pages in range(1, 20)]


def os_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RecordError("a sentence"), "a sentence"),
        (os_error(errno.ENOSPC, "a"), "a: No space left on device; free some space, then continue"),
        (os_error(errno.EROFS, "a"), "a: Read-only file system; choose another folder with output"),
        (os_error(errno.EACCES, "a"), "a: Permission denied; choose another folder"),
        (os_error(errno.ENOTDIR, "a/b"), "a/b: Not a directory; choose another folder"),
        (os_error(errno.ENAMETOOLONG, "a"), "a: File name too long; choose a shorter name"),
        (os_error(errno.EIO, "a"), "a: Input/output error"),
        (ConnectionError("no route to hub"), "ConnectionError: no route to hub"),
        (Exception("I/O error: full (os error 28)"), "No space left on device; free some space"),
        (MemoryError(), "out of memory; use a smaller scale, training.batch_tokens"),
        (MemoryError("Unable to allocate 8 EiB"), "out of memory: Unable to allocate 8 EiB; use a"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory: CUDA out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "out of memory: Default"),
    ],
)
def test_errors_of_disk_and_memory_say_what_to_do(error: Exception, said: str) -> None:
    assert explain(error).startswith(said)


def test_a_fault_of_the_program_is_raised() -> None:
    def work() -> None:
        raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        exit_code("atlas-bench", work)


def test_a_sentence_has_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise os_error(errno.ENOENT, "\x1b[2J")

    assert exit_code("atlas-bench", work) == 2
    assert capsys.readouterr().err == "atlas-bench: \ufffd[2J: No such file or directory\n"


def test_a_log_that_cannot_be_opened_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trust C17: logging hides the cause behind an error of its own."""

    def work() -> None:
        place = str(tmp_path / "missing" / "run.log")
        handler = {"class": "logging.FileHandler", "filename": place}
        logging.config.dictConfig({"version": 1, "handlers": {"file": handler}})

    assert exit_code("atlas-bench", work) == 2
    said = capsys.readouterr().err
    assert said == f"atlas-bench: {tmp_path}/missing/run.log: No such file or directory\n"


def test_an_interrupted_command_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Trust B14."""

    def work() -> None:
        raise KeyboardInterrupt

    assert exit_code("atlas-bench-report", work) == 130
    assert capsys.readouterr().err == "atlas-bench-report: interrupted\n"


def test_an_error_of_writing_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise os_error(errno.ENOSPC)  # as write() raises it, without a name

    with pytest.raises(OSError, match="No space") as failed:
        append_lines(Path("/dev/full"), [{"step": 1}])
    assert explain(failed.value).startswith("/dev/full: No space left on device; free")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as failed:
        write_json(tmp_path / "record.json", {})
    assert explain(failed.value).startswith(f"{tmp_path}/record.json: No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [os_error(errno.EROFS, "x"), MemoryError("Unable to allocate")])
def test_a_run_that_cannot_begin_leaves_no_folder(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "prepare", fail)
    assert atlas_bench(*TINY) == 2
    said = capsys.readouterr().err
    assert said.startswith("atlas-bench: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert atlas_bench(*TINY, f"output_dir={name}") == 2
    said = capsys.readouterr().err
    assert f"{name}: " in said or f"{name}/" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of ``request.param``, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", disk]
    if os.name == "nt" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # its log is still open


@pytest.mark.faults
@pytest.mark.parametrize("small_disk", ["ro", *SIZES], indirect=True)
def test_a_full_or_read_only_disk_is_one_sentence(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = atlas_bench(*TINY, f"output_dir={small_disk}")
    said = capsys.readouterr().err
    assert code in (0, 2)  # 0: the run fits
    assert said.count("\n") == code // 2
    assert str(small_disk) in said or code == 0
