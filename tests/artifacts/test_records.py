"""Records: intervals, writing in one step, reading with clear errors, finding runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_bench.artifacts import records
from atlas_bench.artifacts.folder import replacing
from atlas_bench.artifacts.metrics import wilson_interval
from atlas_bench.artifacts.records import RecordError, find_records, read_record, write_record
from atlas_bench.artifacts.schema import Record, Score

MakeRecord = Callable[..., Record]


# Wilson ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "samples", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (8, 8, 0.6756, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),  # likewise
        (1, 29, 0.0061, 0.1718),  # likewise
    ],
)
def test_wilson_known_values(correct: int, samples: int, low: float, high: float) -> None:
    assert wilson_interval(correct, samples) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data(), st.floats(0.5, 0.999))
def test_wilson_holds_the_proportion(samples: int, data: st.DataObject, level: float) -> None:
    correct = data.draw(st.integers(0, samples))
    low, high = wilson_interval(correct, samples, level)
    assert 0 <= low <= correct / samples <= high <= 1
    assert low < high
    mirrored = wilson_interval(samples - correct, samples, level)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_wilson_is_wider_with_more_confidence() -> None:
    narrow, wide = wilson_interval(7, 10, 0.8), wilson_interval(7, 10, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 5), (1, 5, 0.0), (1, 5, 95)])
def test_wilson_refuses_what_cannot_be(counts: tuple) -> None:
    with pytest.raises(ValueError, match="proportion|confidence"):
        wilson_interval(*counts)


# writing and reading --------------------------------------------------------------------------


def test_what_is_written_is_read(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(notes=["qa1 1M: does not fit"], git_commit=None)
    path = tmp_path / "a" / "record.json"
    write_record(record, path)
    found = read_record(path)
    assert found == record
    assert found.path == path
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_unusual_values_become_json(make_record: MakeRecord, tmp_path: Path) -> None:
    config = {"at": Path("a/b"), "rate": np.float32(0.5), "bad": float("nan"), "list": (1, 2)}
    record = make_record(train_tokens=np.int64(7), config=config)
    record.scores[0].tokens_per_second = float("inf")
    write_record(record, tmp_path / "record.json")
    strict = json.loads((tmp_path / "record.json").read_text(), parse_constant=pytest.fail)
    assert strict["config"] == {"at": "a/b", "rate": 0.5, "bad": None, "list": [1, 2]}
    assert read_record(tmp_path / "record.json").train_tokens == 7
    assert read_record(tmp_path / "record.json").scores[0].tokens_per_second is None


def test_scores_that_are_no_numbers_are_notes(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record(notes=["first"])
    record.validation = [replace(score) for score in record.scores[:2]]
    record.scores[1].value, record.validation[0].value = float("inf"), float("nan")
    write_record(record, tmp_path / "record.json")
    found = read_record(tmp_path / "record.json")
    assert found.scores == [record.scores[0], *record.scores[2:]]
    assert found.validation == []  # not the mean of those that are left
    assert found.notes == [
        "first",
        "scores: exact_match of qa1 1k is inf",
        "validation: exact_match of qa1 0k is nan",
        "validation: no scores, because not all of them are finite",
    ]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(
    make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "record.json"
    write_record(make_record(seed=1), path)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records.os, broken, interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_record(make_record(seed=2), path)
    assert read_record(path).seed == 1
    assert os.listdir(tmp_path) == ["record.json"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename over file systems is not one step
    assert path.read_text() == "new"


def test_unknown_keys_are_ignored(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(make_record(), path)
    content = json.loads(path.read_text())
    content["of a later version"] = 1
    content["scores"][0]["also"] = 2
    path.write_text(json.dumps(content))
    assert read_record(path) == make_record()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("seed"), "the record lacks seed"),
        (lambda c: (c.pop("seed"), c.pop("task")), "the record lacks task, seed"),
        (lambda c: c["scores"][1].pop("value"), r"scores\[1\] lacks value"),
        (lambda c: c.update(seed="0"), "seed of the record cannot be a str"),
        (lambda c: c.update(scores={}), "scores of the record cannot be a dict"),
        (lambda c: c["scores"].insert(0, 3), r"scores\[0\] is not a JSON object"),
        (lambda c: c["scores"][0].update(value=None), r"value of scores\[0\] cannot be a NoneType"),
    ],
)
def test_what_is_wrong_is_named(
    make_record: MakeRecord, tmp_path: Path, change: Callable[[dict], object], message: str
) -> None:
    path = tmp_path / "record.json"
    write_record(make_record(), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=message) as error:
        read_record(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["scores"][0].update(value=5.0), "qa1 0k is 5.0, but a share lies between"),
        (lambda c: c["scores"][0].update(value=-0.1), "is -0.1, but a share lies between 0 and 1"),
        (lambda c: c["scores"][0].update(value=float("nan")), "it holds the number nan"),
        (lambda c: c["config"].update(rate=float("inf")), "it holds the number inf"),
        (lambda c: c["scores"][0].update(samples=-5), r"samples of scores\[0\] cannot be -5"),
        (lambda c: c["scores"][0].update(samples=True), r"samples of scores\[0\] cannot be a bool"),
        (lambda c: c.update(wall_seconds=-1.0), "wall_seconds of the record cannot be -1.0"),
        (lambda c: c.update(parameters=10**400), "a whole number of more than 64 bits"),
        (lambda c: c.update(task="/elsewhere/x"), "task of the record cannot be '/elsewhere/x'"),
        (lambda c: c.update(task=".."), "task of the record cannot be '..'"),
        (lambda c: c.update(task="x" * 300), "task of the record cannot be 'xx"),
        (lambda c: c["config"].update(training=[1]), "training in a config of the record is not"),
        (lambda c: c["config"].update(trained_on={"text": 3}), "text in a config of the record"),
        (lambda c: c["config"].update(a=nested(60)), "it is nested more than 50 deep"),
        (lambda c: c["config"].update(a=nested(900)), "nested more than 50 deep|recursion depth"),
        (lambda c: c["metrics"].append({"name": "a\nb", "unit": "x"}), "a b is in x: only a share"),
    ],
)  # fmt: skip
def test_a_record_of_impossible_values_is_refused(
    make_record: MakeRecord, tmp_path: Path, change: Callable[[dict], object], message: str
) -> None:
    test_what_is_wrong_is_named(make_record, tmp_path, change, message)


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


def test_text_of_a_record_can_be_printed(make_record: MakeRecord, tmp_path: Path) -> None:
    config = {"a\x1b[2J": ["\ud800\u202e\x9b", "kept\tand\nkept"]}
    write_record(make_record(name="\x1b[31mred\a", config=config), tmp_path / "record.json")
    found = read_record(tmp_path / "record.json")
    assert found.name == "\ufffd[31mred\ufffd"
    assert found.config == {"a\ufffd[2J": ["\ufffd" * 3, "kept\tand\nkept"]}
    (tmp_path / "failed.json").write_text('{"reason": "\\u001b[31m"}')
    assert records.why_failed(tmp_path) == "\ufffd[31m"


def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(RecordError, match="record.json is not a file"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a": 1' + b"0" * 5000 + b"}"])
def test_json_that_python_cannot_hold_is_a_record_error(tmp_path: Path, content: bytes) -> None:
    test_broken_files_are_record_errors(tmp_path, content)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_broken_files_are_record_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="record.json (is not valid|does not hold a) JSON"):
        read_record(path)
    with pytest.raises(RecordError, match="gone.json cannot be read"):
        read_record(tmp_path / "gone.json")


def test_only_measurements_of_cost_may_be_missing() -> None:
    score = Score("qa1", 0, "0k", "exact_match", 1.0, 10, 0.7, 1.0)
    assert score.tokens_per_second is score.peak_memory_bytes is score.measured_tokens_mean is None


# finding --------------------------------------------------------------------------------------


def test_runs_are_found_sorted_and_unfinished_ones_counted(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    finished = [tmp_path / name for name in ("b/2-x", "a/sweep/1-y", "a/sweep/0-y")]
    for folder in finished:
        write_record(make_record(), folder / "record.json")
        (folder / "config.yaml").touch()
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "config.json").touch()
        (folder / "wandb" / "files").mkdir(parents=True)
        (folder / "wandb" / "files" / "config.yaml").touch()
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").touch()
    for name, file in (("c/going", "metrics.jsonl"), ("c/new", "config.json")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).touch()
    (tmp_path / "a" / "sweep" / "multirun.yaml").touch()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "scores.csv").touch()
    found = find_records(tmp_path)
    assert found.records == sorted(folder / "record.json" for folder in finished)
    assert found.unfinished == [tmp_path / "c/going", tmp_path / "c/new"]


def test_overlapping_folders_give_each_record_once(make_record: MakeRecord, tmp_path: Path) -> None:
    write_record(make_record(), tmp_path / "a" / "run" / "record.json")
    write_record(make_record(), tmp_path / "b" / "record.json")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = find_records(tmp_path / "a", tmp_path, tmp_path / "link", str(tmp_path / "b"))
    assert len(found.records) == 2


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="nothing does not exist"):
        find_records(tmp_path, tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="file is not a directory"):
        find_records(tmp_path / "file")
