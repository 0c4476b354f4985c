"""One run end to end, on a budget of seconds: record, plots, evaluation of a checkpoint, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from in_process import atlas_bench, no_plots
from tokenizers import Tokenizer, models

from atlas_bench.cli.report import main as report
from atlas_bench.cli.run import main

SMALL = [
    "training.tokens=4096", "training.batch_tokens=512",
    "training.curriculum.stages=[{length:64,noise:0.0},{length:128,noise:0.5}]",
    "training.checkpoint_every=2", "task.lengths=[0k,1k]", "task.samples=3", "logger=none",
    "hardware.threads=1",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    code = "from atlas_bench.cli.run import main; main()"
    return [sys.executable, "-c", code, *arguments]


def only_run(folder: Path) -> Path:
    (found,) = (folder / "outputs").glob("*/*")
    return found


def last_loss(run: Path) -> float:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]


def test_trains_evaluates_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["atlas-bench", *SMALL])
    main()
    run = only_run(tmp_path)
    record = json.loads((run / "record.json").read_text())
    assert record["model"] == "atlas"
    assert record["scale"] == "tiny"
    assert record["parameters"] == pytest.approx(163_136, rel=0.01)
    assert record["train_tokens"] >= 4096
    assert record["protocol"]["length_convention"] == "public"
    assert {"torch", "atlas-bench"} <= record["versions"].keys()
    cells = {(s["subtask"], s["length_tokens"], s["metric"]) for s in record["scores"]}
    metrics = ("exact_match", "published_metric")
    assert cells == {("qa1", length, metric) for length in (0, 1000) for metric in metrics}
    for score in record["scores"]:
        assert score["samples"] == 3
        assert 0 <= score["ci_low"] <= score["value"] <= score["ci_high"] <= 1
        assert score["tokens_per_second"] > 0
        assert score["peak_memory_bytes"] > 10**6
        assert score["measured_tokens_mean"] == (
            700 if score["length_tokens"] else pytest.approx(40, rel=0.9)
        )
    assert (run / "plots/accuracy.png").stat().st_size > 5000
    assert (run / "plots/training.png").stat().st_size > 5000
    assert len((run / "predictions.jsonl").read_text().splitlines()) == 6
    assert (run / "config.json").is_file()
    assert f"record  {run}/record.json" in capsys.readouterr().out.replace("\n", "")
    assert not (tmp_path / "wandb").exists()


def test_a_checkpoint_is_evaluated_alike_and_the_report_reads_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Neither the default model nor all of the preset's settings: the checkpoint tells both.
    other = ["model=titans", "model.memory.expansion=2", "seed=3", "training.clip=0.5"]
    assert atlas_bench(*SMALL, *other) == 0
    run = only_run(tmp_path)
    last = run / "checkpoints/last"
    assert atlas_bench(*SMALL, "mode=eval", f"checkpoint={last}", "output_dir=again") == 0
    (again,) = (tmp_path / "again").glob("*/*")
    record = json.loads((again / "record.json").read_text())
    assert record["seed"] == 3  # the model's, as its training and its text
    assert record["config"]["training"]["clip"] == 0.5
    assert record["config"]["trained_on"]["text"]["source"] == "embedded"
    assert (again / "predictions.jsonl").read_text() == (run / "predictions.jsonl").read_text()
    with no_plots():
        assert report(["outputs", "again", "--output", "report"]) == 0
    assert "titans" in (tmp_path / "report/table.md").read_text()
    assert (tmp_path / "report/accuracy.png").is_file()
    capsys.readouterr()
    assert atlas_bench("mode=eval", f"checkpoint={run}", "model=atlas") == 2
    assert (
        f"model=atlas is not what checkpoint={run} was trained as, model=titans"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mode=eval", "checkpoint=nowhere"], "nowhere is not a checkpoint"),
        (["text.tokenizer=nowhere"], "text.tokenizer: there is no file nowhere"),
        (["text.tokenizer=texts/one.json"], "text.tokenizer: one does not give a text back"),
        (["task=lm", "text.tokenizer=texts/one.json"], "text.tokenizer: one does not give a"),
        (
            ["task=lm", "text=folder", "text.folder=texts/latin-1"],
            "texts/latin-1/x.txt is not UTF-8",
        ),
        (["task=lm", "text=folder", "text.folder=nowhere"], "text.folder: there is no folder"),
        (["task=lm", "text=folder", "text.folder=texts"], "text.source: nothing of the text is"),
        (["task=lm", "text.source=stream", "text.dataset=./nowhere"], "text.dataset"),
    ],
)
def test_a_command_that_fails_before_its_run_begins_leaves_nothing(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "texts/latin-1").mkdir(parents=True)
    (tmp_path / "texts/latin-1/x.txt").write_bytes("Grüße. ".encode("latin-1") * 100)
    (tmp_path / "texts/short.txt").write_text("No sentence is held out")
    one_token = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # it is lossy
    one_token.save(str(tmp_path / "texts/one.json"))
    monkeypatch.chdir(tmp_path)
    assert atlas_bench(*words, "logger=none") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


@pytest.mark.faults
def test_kill_9_and_resume_gives_the_same_loss_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    small = [*SMALL, "mode=train", "training.tokens=2048"]
    monkeypatch.chdir(whole)
    assert atlas_bench(*small) == 0
    monkeypatch.chdir(cut)
    process = subprocess.Popen(
        command(*small), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(cut.glob("outputs/*/*/checkpoints/last.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = only_run(cut)
    assert not (run / "record.json").exists()
    capsys.readouterr()
    assert atlas_bench(*small, "resume=true") == 0
    assert "resuming at step" in capsys.readouterr().out
    assert only_run(cut) == run
    assert last_loss(run) == last_loss(only_run(whole))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert atlas_bench(*small, "seed=1", f"resume={run}") == 2
    assert "seed was 0 there and is 1 here" in capsys.readouterr().err
    assert atlas_bench(*small, f"hydra.run.dir={run}") == 2
    assert "holds another run" in capsys.readouterr().err
    assert last_loss(run) == last_loss(only_run(whole))


@pytest.mark.faults
def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(*SMALL, "training.tokens=10000000"), cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/*/*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
    assert f"resume={only_run(tmp_path)}" in said
    assert (only_run(tmp_path) / "checkpoints/last.json").is_file()
