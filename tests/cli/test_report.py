"""The command `atlas-bench-report`: what it prints and writes, and how it fails."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_records
import pytest
from in_process import no_plots

from atlas_bench.artifacts.records import write_record
from atlas_bench.artifacts.schema import Record
from atlas_bench.cli.report import main

MakeRecord = Callable[..., Record]
FILES = [
    *("accuracy.png", "accuracy.svg", "cost.png", "cost.svg"),
    *("report.html", "scores.csv", "table.md", "table.tex"),
]


@pytest.fixture
def outputs(make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three models, one with two seeds, below outputs/ in the working directory."""
    monkeypatch.chdir(tmp_path)
    records = [make_record(model) for model in ("atlas", "titans", "transformer")]
    for index, record in enumerate([*records, make_record(seed=1)]):
        write_record(record, Path(f"outputs/2025-01-31/{index}-{record.model}/record.json"))
    return Path("outputs")


def test_compares_all_runs(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outputs/"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("exact match", "2 seeds", "titans tiny", "transformer tiny", "16k"):
        assert word in printed.out
    assert "published metric" not in printed.out
    assert sorted(path.name for path in (outputs / "report").iterdir()) == FILES
    for name in FILES:
        assert f"outputs/report/{name}\n" in printed.out
        assert (outputs / "report" / name).stat().st_size > 500
    with (outputs / "report" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 6
    assert {row["run"] for row in rows} == {
        f"outputs/2025-01-31/{name}" for name in ("0-atlas", "1-titans", "2-transformer", "3-atlas")
    }


def test_a_second_report_is_the_same(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outputs"]) == 0
    first = {name: (outputs / "report" / name).read_bytes() for name in FILES}
    printed = capsys.readouterr()
    assert main(["outputs"]) == 0
    assert capsys.readouterr() == printed
    assert {name: (outputs / "report" / name).read_bytes() for name in FILES} == first


def test_output_and_metric_are_chosen(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["outputs/2025-01-31/1-titans", "outputs/2025-01-31/0-atlas"]
    assert main([*arguments, "--output", "a/b", "--metric", "published_metric"]) == 0
    printed = capsys.readouterr().out
    assert "published metric" in printed
    assert "transformer" not in printed
    assert sorted(path.name for path in Path("a/b").iterdir()) == FILES
    assert not (outputs / "2025-01-31/1-titans/report").exists()
    assert main([*arguments, "--output", "c"]) == 0
    assert Path("a/b/scores.csv").read_text() == Path("c/scores.csv").read_text()
    for name in ("table.md", "accuracy.svg", "accuracy.png"):
        assert Path("a/b", name).read_bytes() != Path("c", name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["outputs", "nowhere"], "nowhere does not exist"),
        (["empty"], "no record found in empty"),
        (["outputs", "--metric", "exact_mach"], "did you mean exact_match?"),
        (["outputs", "--metric", "accuracy"], "is not one of exact_match, published_metric"),
        (["outputs", "--table", "table3_s_niah", "--metric", "x"], "--metric x is not for --table"),
        (["outputs", "--wrong"], "unrecognized arguments: --wrong"),
        (["outputs", "--output", "file"], "--output file is not a folder"),
        (["file"], "file is not a directory"),
        ([], "required: DIR"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    outputs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("atlas-bench-report: ")
    assert printed.count("\n") == 1


def test_a_broken_record_is_named_and_left_out(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "2025-01-31" / "1-titans" / "record.json").write_text('{"name": "tit')
    going = outputs / "2025-02-01" / "0-going"
    going.mkdir(parents=True)
    (going / "metrics.jsonl").touch()
    with no_plots():
        assert main(["outputs"]) == 0
    printed = capsys.readouterr()
    broken, unfinished = printed.err.splitlines()
    assert "1-titans/record.json is not valid JSON" in broken
    assert "1 run without a record" in unfinished
    assert "titans" not in printed.out
    assert "transformer" in printed.out


def test_an_odd_record_is_left_out_and_the_others_are_shown(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What reaches the report of such a record is harmless; what cannot be shown is left out."""
    sound = json.loads((outputs / "2025-01-31/0-atlas/record.json").read_text())
    sound["config"] |= {"training": None}
    odd = {"escape\x1b[31m": {"model": "red\x1b[31m"}, "half": {"model": "half\ud800"}}
    odd |= {"math": {"model": "$^_{$"}, "digits": {"model": "1" * 5000}}
    odd |= {"chance": {"protocol": {"chance": {"qa1": [1]}}}, "folder": {"task": "/elsewhere/x"}}
    for name, change in odd.items():
        (outputs / name).mkdir()
        (outputs / name / "record.json").write_text(json.dumps(sound | change))
    lines = ["[" * 10**5, '{"tokens": 1e999, "loss": 1}', '{"tokens": 1, "loss": [1]}']
    (outputs / "math" / "metrics.jsonl").write_text("\n".join(lines))
    (outputs / "half" / "metrics.jsonl").symlink_to("/")
    broken = outputs / os.fsdecode(b"caf\xe9\x1b")
    broken.mkdir()
    (broken / "record.json").write_text("{")
    write_record(
        made_records.record("titans", scale="b"), Path(os.fsdecode(b"outputs/\xe9/record.json"))
    )
    with no_plots():
        assert main(["outputs"]) == 0
    printed = capsys.readouterr()
    one, two = printed.err.splitlines()
    assert one.startswith(
        "atlas-bench-report: left out: outputs/caf\ufffd\ufffd/record.json is not"
    )
    assert two.endswith(
        "folder/record.json is not a valid record: task of the record cannot be '/elsewhere/x'"
    )
    assert "red\ufffd[31m" in printed.out
    assert "\x1b" not in printed.out + printed.err
    assert "titans b" in printed.out
    assert not Path("/elsewhere").exists()


def test_only_broken_or_unscored_records_is_bad_input(
    make_record: MakeRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").mkdir()
    Path("bad/record.json").write_text("[]")
    assert main(["bad"]) == 2
    assert "no record that can be read found in bad" in capsys.readouterr().err
    write_record(make_record(lengths=[]), Path("trained/record.json"))
    assert main(["trained"]) == 2
    assert "none of the 1 runs found has a score" in capsys.readouterr().err


def test_help_as_a_command() -> None:
    command = [sys.executable, "-m", "atlas_bench.cli.report"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for word in ("--output", "--metric", "scores.csv", "examples"):
        assert word in done.stdout
    done = subprocess.run([*command, "nowhere"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
