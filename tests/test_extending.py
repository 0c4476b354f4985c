"""The examples of docs/architecture.md: each is added as the page says, and run by the command."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from docs_pages import REPOSITORY
from in_process import atlas_bench
from walkthroughs import follow

from atlas_bench.cli.report import main as report
from atlas_bench.tasks.registry import TASKS

PAGE = REPOSITORY / "docs" / "architecture.md"
PACKAGE = REPOSITORY / "atlas_bench"
TINY = [
    "task=mqar", "task.grid=[{length:32,pairs:2}]", "task.vocab_size=64", "task.train_examples=64",
    "task.test_examples=8", "training.epochs=null", "training.tokens=512",
    "training.batch_tokens=128", "training.min_sequences=1", "scale=zoology_32",
    "hardware.device=cpu", "hardware.threads=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> dict[str, Any]:
    """The record of one tiny run."""
    assert atlas_bench(*TINY, *words, "hydra.run.dir=run") == 0
    return read(Path("run/record.json"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_mixer_is_one_file_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("atlas_bench/models/running_mean.py", "atlas_bench/models/mixer.py")
    follow(PAGE.name, monkeypatch, only=files)
    model = ["model=transformer", "model.mixers=[running_mean]"]
    record = run(*model, "logger=none")
    assert record["config"]["model"]["mixers"] == ["running_mean"]
    assert record["state_bytes"] == 2 * 32 * 4  # layers x width x float32
    again = ["mode=eval", "checkpoint=run", "hydra.run.dir=again", "logger=none"]
    assert atlas_bench(*TINY, *again) == 0
    assert read(Path("again/record.json"))["scores"][0]["value"] == record["scores"][0]["value"]
    capsys.readouterr()
    assert atlas_bench(*model, "mode=describe") == 0
    assert "transformer at tiny: 163," in capsys.readouterr().out
    assert atlas_bench(*model, "model.match=state", "logger=none") == 2
    assert (
        "model.match=state cannot match transformer: its mixer RunningMean"
        in capsys.readouterr().err
    )


def test_a_metric_is_one_file_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("atlas_bench/tasks/mqar_nats.py", "atlas_bench/tasks/registry.py")
    follow(PAGE.name, monkeypatch, only=files)
    rates = "training.learning_rate=1e-4,1e-2"
    words = [*TINY, "model=deltanet", rates, "training.warmup_steps=0", "logger=none"]
    assert atlas_bench("-m", *words, "hydra.sweep.dir=sweep") == 0
    records = {
        record["config"]["training"]["learning_rate"]: record
        for record in map(read, Path("sweep").glob("*/record.json"))
    }
    units = {metric["name"]: metric["unit"] for metric in records[1e-2]["metrics"]}
    assert units == {"nats_per_target": "nats", "accuracy": "share"}
    losses = {rate: record["validation"][0]["value"] for rate, record in records.items()}
    assert min(losses.values()) > 1  # which no share can be
    best = min(losses, key=losses.get)
    capsys.readouterr()
    assert report(["--best", "sweep"]) == 0
    page = capsys.readouterr().out
    assert f"{records[best]['scores'][0]['value']:.4g}" in page
    assert f"learning_rate={best}" in page


def test_a_kind_of_task_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("atlas_bench/evaluation/whole_sequences.py", "atlas_bench/evaluation/evaluators.py")
    task = "atlas_bench/tasks/whole_mqar.py"
    follow(PAGE.name, monkeypatch, only=(*files, task))
    settings = importlib.import_module("atlas_bench.tasks.whole_mqar").WholeMqarSettings
    monkeypatch.setitem(TASKS, "mqar", settings)
    (score,) = run("model=deltanet", "logger=none")["scores"]
    assert (score["metric"], score["samples"]) == ("whole_sequence", 8)
    assert 0 <= score["ci_low"] <= score["value"] <= score["ci_high"] <= 1


def test_a_tracker_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("atlas_bench/tracking/csv_tracker.py", "atlas_bench/tracking/__init__.py")
    follow(PAGE.name, monkeypatch, only=files)
    record = run("model=deltanet", "logger.name=csv")
    with Path("run/tracked.csv").open(encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert [step for step, name, _ in lines if name == "loss"] == ["10"]  # of 16
    assert ["", "accuracy", str(record["scores"][0]["value"])] in lines


# what the page names ------------------------------------------------------------------------


def named_functions() -> list[tuple[str, str]]:
    """File and name of every function and class in the page's tables of paths."""
    rows = re.findall(r"^\| \d+ \| `([\w/]+\.py)`: ((?:`\w+`(?:, )?)+) \|", PAGE.read_text(), re.M)
    return [(file, name) for file, names in rows for name in re.findall(r"`(\w+)`", names)]


def test_the_paths_name_what_exists() -> None:
    assert len(named_functions()) > 15
    for file, name in named_functions():
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
        assert name in defined, f"{file} has no {name}"


def test_every_folder_is_described() -> None:
    table = PAGE.read_text(encoding="utf-8").split("| `atlas_bench/` |")[1].split("\n\n")[0]
    listed = set(re.findall(r"`([\w.]+/?)`", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.M))))
    there = {path.name + "/" * path.is_dir() for path in PACKAGE.iterdir()}
    assert there - {"__init__.py", "__pycache__/"} == listed
