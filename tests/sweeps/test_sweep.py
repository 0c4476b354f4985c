"""Sweeps: killed and gone on with, with jobs that fail; what the index says and what is chosen."""

from __future__ import annotations

import datetime
import json
import threading
import time
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from in_process import no_plots
from made_records import record
from tiny_sweeps import TINY, only_index, start, steps_of, sweep_here

from atlas_bench.artifacts.folder import RunFolder, write_json
from atlas_bench.artifacts.lock import locked
from atlas_bench.artifacts.records import write_record
from atlas_bench.artifacts.saved_config import write_config
from atlas_bench.cli import sweep as sweep_cli
from atlas_bench.cli.command import Command
from atlas_bench.cli.compose import compose_settings
from atlas_bench.cli.report import main as report
from atlas_bench.config.errors import ConfigError
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import Index, Job, read_index, start_index
from atlas_bench.sweeps.job import JobStart, do_job
from atlas_bench.sweeps.plan import find_sweep, plan_sweep


@pytest.mark.faults
def test_killed_half_way_and_started_again_it_does_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 jobs, `kill -9` of the parent after the first: 4 records, none twice, none lost."""
    monkeypatch.chdir(tmp_path)
    words = ["mode=train", "seed=0,1", "training.learning_rate=1e-3,2e-3"]
    process = start(*words, folder=tmp_path)
    deadline = time.monotonic() + 240
    while len(done := list(tmp_path.glob("outputs/*/*/*/record.json"))) < 1:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = {path: path.read_bytes() for path in done}
    folder, index = only_index(tmp_path)
    assert len(index.jobs) == 4
    assert len(index.of("missing")) >= 1
    assert sweep_here(*words, "resume=true") == 0
    folder, index = only_index(tmp_path)  # and no other sweep beside it
    assert [job.number for job in index.of("done")] == list(range(4))
    assert len({(folder / job.folder / "config.json").read_text() for job in index.jobs}) == 4
    assert f"{folder}: 4 of 4 jobs done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    for job in index.jobs:
        assert steps_of(folder / job.folder) == [1, 2, 3, 4]
    records = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    drawn = {(each["seed"], each["config"]["training"]["learning_rate"]) for each in records}
    assert drawn == {(seed, rate) for seed in range(2) for rate in (1e-3, 2e-3)}


def test_one_failed_job_stops_no_other_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # As what only the machine of a job can see, the fault is found when the job runs.
    monkeypatch.setattr(Command, "check_values", lambda command: None)
    words = ["training.learning_rate=2e-3,-1,4e-3", "validation_samples=2"]
    assert sweep_here(*words) == 1
    printed = capsys.readouterr()
    reason = "training.learning_rate=-1.0 must be above 0 and at most 1"
    assert f"job 1 failed: {reason}" in printed.err
    assert "Traceback" not in printed.err
    assert "2 of 3 jobs done" in printed.out
    folder, index = only_index(tmp_path)
    assert [(job.state, job.reason) for job in index.jobs] == [
        ("done", None), ("failed", reason), ("done", None),
    ]  # fmt: skip
    assert "training.learning_rate=-1" in index.jobs[1].overrides
    records = {path: path.read_bytes() for path in folder.glob("*/record.json")}
    for content in map(json.loads, records.values()):
        assert {score["samples"] for score in content["validation"]} == {2}
    with no_plots():
        assert report([str(folder)]) == 0
    assert f"failed: {folder / index.jobs[1].folder}: {reason}" in capsys.readouterr().err
    assert sweep_cli.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert reason in shown
    assert "best of 2 for deltanet tiny on mqar: training.learning_rate=0.00" in shown
    assert sweep_here(*words, "resume=true") == 1
    assert {path: path.read_bytes() for path in folder.glob("*/record.json")} == records


def test_jobs_may_lie_deeper_but_not_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["mode=train", "seed=0,1", "hydra.sweep.dir='in [red]'", "hydra.sweep.subdir=a/b"]
    assert sweep_here(*words) == 1
    first, second = read_index(tmp_path / "in [red]").jobs
    assert (first.state, first.folder, "seed=0" in first.overrides) == ("done", "a/b", True)
    assert (second.state, "seed=1" in second.overrides) == ("failed", True)
    assert "in [red]/a/b is the folder of job 0; hydra.sweep.subdir must" in second.reason
    record = json.loads((tmp_path / "in [red]/a/b/record.json").read_text())
    assert record["seed"] == 0
    assert "in [red]/a/b/record.json" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("folder", ["precious", "precious/new/sweep"])
def test_a_sweep_that_cannot_start_removes_only_what_it_made(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    for name in ("file", "multirun.yaml"):
        (tmp_path / "precious" / name).write_text("data")
    assert sweep_here("training=mqar,nosuch", f"hydra.sweep.dir={folder}") == 2
    assert "training=nosuch is not one of" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "file", "multirun.yaml", "precious",
    ]  # fmt: skip
    assert (tmp_path / "precious/file").read_text() == "data"


# the parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["babilong", "s_niah"])
def test_validation_samples_are_of_the_task_but_not_the_tests(task: str) -> None:
    settings = compose_settings([f"task={task}", "validation_samples=3"])
    tested, validated = (
        each.make(settings.text, seed=0, question_every=10)
        for each in (settings.task, settings.task.for_validation(3))
    )
    assert tested.cells() == validated.cells()
    assert tested.vocab_size == validated.vocab_size
    cell = tested.cells()[-1]
    assert validated.samples == 3
    test, validation = (
        [each.context_ids.tolist() for each in made.questions(cell, 3)]
        for made in (tested, validated)
    )
    assert len(validation) == 3
    assert not any(sample in test for sample in validation)


def index(jobs: int, *words: str) -> Index:
    """A sweep over ``jobs`` seeds, with other overrides the same for all jobs."""
    each = [Job(number, "missing", [*words, f"seed={number}"]) for number in range(jobs)]
    return Index([*words, "seed=0,1"], each, "2025-01-31")


def test_a_sweep_is_the_same_wherever_it_runs() -> None:
    same = index(2, "model=atlas", "training.min_sequences=1")
    elsewhere = ["training.min_sequences=1", "model=atlas", "resume=true", "logger=none",
                 "output_dir=x", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=y"]  # fmt: skip
    assert same.has_jobs_of(index(2, *elsewhere))
    assert same.has_jobs_of(index(2, "model=atlas", "training.min_streams=1"))  # its old name
    assert not same.has_jobs_of(index(3, "model=atlas", "training.min_sequences=1"))
    assert not same.has_jobs_of(index(2, "model=titans", "training.min_sequences=1"))
    turned = index(2, "model=atlas", "training.min_sequences=1")
    turned.jobs[0].overrides, turned.jobs[1].overrides = (job.overrides for job in same.jobs[::-1])
    assert not same.has_jobs_of(turned)  # the order of a list numbers the jobs


def test_an_optimizers_jobs_are_not_known_before() -> None:
    same, draws = index(2, "hydra.sweeper.n_trials=2"), index(2, "hydra.sweeper.n_trials=2")
    for job in draws.jobs:
        job.overrides = None
    assert same.has_jobs_of(draws)
    draws.command.append("hydra.sweeper.sampler.seed=1")
    assert not same.has_jobs_of(draws)


def test_a_sweep_of_another_config_is_not_resumed(tmp_path: Path) -> None:
    """The same words may compose to another config, if a file of conf/ has changed."""
    folder, settings = tmp_path / "sweep", settings_with(output_dir=str(tmp_path), resume=True)
    start_sweep(folder, [["seed=0"]])
    do_job(job_start(folder), lambda: 1 / 0)
    sweep = Index([], [Job(0, "missing", ["seed=0"])], "")
    assert plan_sweep(sweep, settings, tmp_path / "new").folder == folder
    write_config(folder / "0-name" / "config.json", asdict(settings_with(validation_samples=1)))
    with pytest.raises(ConfigError, match="has no sweep of this config"):
        find_sweep(sweep, settings)
    settings.resume = str(folder)
    said = "another config: validation_samples was 1 there and is 0 here"
    with pytest.raises(ConfigError, match=said):
        plan_sweep(sweep, settings, tmp_path / "new")


def start_sweep(folder: Path, jobs: list[list[str] | None]) -> None:
    """Write the index of a sweep that has not begun."""
    missing = [Job(number, "missing", words) for number, words in enumerate(jobs)]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    start_index(folder, Index([], missing, now))


def settings_with(**changes: Any) -> RunSettings:
    return replace(mqar_settings(), **changes)


@cache
def mqar_settings() -> RunSettings:
    return compose_settings(["task=mqar"])


def job_start(sweep: Path, number: int = 0, **changes: Any) -> JobStart:
    """A job, and its folder as Hydra leaves it before the job starts."""
    folder = changes.pop("folder", sweep / f"{number}-name")
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_with(seed=changes.pop("seed", number))
    overrides = [f"seed={settings.seed}"]
    return JobStart(number, overrides, settings, RunFolder(folder), sweep, **changes)


def test_a_job_is_done_once_and_again_when_it_failed(tmp_path: Path) -> None:
    start_sweep(tmp_path, [["seed=0"]])
    job, calls = job_start(tmp_path), []

    def fails() -> None:
        calls.append("fails")
        raise ConfigError("key=1 must be\n2")

    def works() -> None:
        calls.append("works")
        write_record(record(), job.folder.record)

    assert do_job(job, fails) is None
    (line,) = read_index(tmp_path).jobs
    assert (line.state, line.reason) == ("failed", "key=1 must be 2")
    assert "ConfigError" in json.loads(job.folder.failed.read_text())["traceback"]
    assert do_job(job_start(tmp_path, again=False), works) is None
    assert do_job(job, works) == do_job(job, works) == job.folder.record
    assert calls == ["fails", "works"]
    (line,) = read_index(tmp_path).jobs
    assert (line.state, line.reason, line.overrides) == ("done", None, ["seed=0"])


def test_what_stops_a_sweep_is_no_failure_of_its_job(tmp_path: Path) -> None:
    start_sweep(tmp_path, [["seed=0"], ["seed=1"]])

    def stopped() -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        do_job(job_start(tmp_path), stopped)
    assert [job.state for job in read_index(tmp_path).jobs] == ["unfinished", "missing"]


def test_two_processes_never_do_the_same_job_at_once(tmp_path: Path) -> None:
    start_sweep(tmp_path, [["seed=0"]])
    job, calls = job_start(tmp_path), []
    with locked(job.folder.lock):
        waiting = threading.Thread(target=lambda: do_job(job, lambda: calls.append("again")))
        waiting.start()
        time.sleep(0.2)
        assert calls == []
        write_record(record(), job.folder.record)  # the other process ends well
    waiting.join(timeout=10)
    assert calls == []


def test_a_job_that_another_machine_does_is_refused(tmp_path: Path) -> None:
    start_sweep(tmp_path, [["seed=0"]])
    job = job_start(tmp_path)
    write_json(job.folder.lock, {"host": "node7", "pid": 1, "started": 0.0})
    assert do_job(job, pytest.fail) is None
    (line,) = read_index(tmp_path).jobs
    assert line.reason == (
        f"{job.folder} is already running, as process 1 on node7; if that process has ended, "
        f"delete {job.folder.lock}"
    )


def test_an_index_outlives_damage_to_a_job(tmp_path: Path) -> None:
    start_sweep(tmp_path, [["seed=0"]])
    job_start(tmp_path).folder.job.write_text('{"number": 0')
    damaged = job_start(tmp_path, 1).folder
    damaged.job.write_text(json.dumps({"number": 1, "overrides": ["seed=1"]}))
    damaged.config.write_text("")
    assert [job.state for job in read_index(tmp_path).jobs] == ["missing", "unfinished"]


def test_a_record_of_another_config_is_never_taken_for_a_jobs_own(tmp_path: Path) -> None:
    start_sweep(tmp_path, [None])
    job = job_start(tmp_path)

    def works() -> None:
        write_config(job.folder.config, asdict(replace(job.settings, resume=True)))
        write_record(record(), job.folder.record)

    assert do_job(job, works) is not None
    before = {path: path.read_bytes() for path in job.folder.path.iterdir()}
    assert do_job(job_start(tmp_path, seed=7), pytest.fail) is None
    (line,) = read_index(tmp_path).jobs
    assert (line.state, line.folder, line.overrides) == ("failed", "refused-0", ["seed=7"])
    assert line.reason == (
        f"{job.folder} was started with another config: seed was 0 there and is 7 here"
    )
    assert {path: path.read_bytes() for path in job.folder.path.iterdir()} == before
    assert do_job(job, pytest.fail) is not None
    (line,) = read_index(tmp_path).jobs
    assert (line.state, line.folder, line.overrides) == ("done", "0-name", ["seed=0"])
    outside = job_start(tmp_path / "sweep", folder=tmp_path / "outside")
    start_sweep(tmp_path / "sweep", [None])
    assert do_job(outside, pytest.fail) is None
    (line,) = read_index(tmp_path / "sweep").jobs
    assert "outside of the sweep's folder" in line.reason


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_the_newest_sweep_is_gone_on_with(names: str, tmp_path: Path) -> None:
    older, newer = (tmp_path / name for name in names)
    for folder in (older, newer):
        start_sweep(folder, [["seed=0"]])
    do_job(job_start(older), lambda: 1 / 0)
    assert find_sweep(read_index(older), settings_with(output_dir=str(tmp_path))) == newer


def test_a_folder_gets_one_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.json").touch()  # of another that has just started
    monkeypatch.chdir(tmp_path)
    assert sweep_here("seed=0,1", "hydra.sweep.dir=.") == 2
    assert "holds a sweep already; resume it with resume=true" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_damaged_record_is_not_done(tmp_path: Path) -> None:
    """Trust B12."""
    start_sweep(tmp_path, [["seed=0"]])
    job = job_start(tmp_path)
    for damage in ("", "{", "{}", "[" * 100_000):
        job.folder.record.write_text(damage)
        assert do_job(job, lambda: None) is None
        (line,) = read_index(tmp_path).jobs
        assert line.state == "unfinished"
        assert "record.json" in line.reason
    sweep = Index([], [Job(0, "missing", ["seed=0"])], "")
    assert find_sweep(sweep, settings_with(output_dir=str(tmp_path))) == tmp_path
    assert do_job(job, lambda: write_record(record(), job.folder.record)) == job.folder.record


def test_an_empty_index_is_rebuilt_by_the_same_command(tmp_path: Path) -> None:
    folder, other = tmp_path / "mine", tmp_path / "other"
    for each, words in ((folder, ["seed=0"]), (other, ["seed=1"])):
        start_sweep(each, [words, ["seed=7"]])
        do_job(job_start(each, seed=int(words[0][-1])), lambda: 1 / 0)
        (each / "sweep.json").write_text("")
    start_sweep(tmp_path / "nothing lost", [["seed=0"], ["seed=7"]])
    (tmp_path / "nothing lost/sweep.json").write_text("")
    jobs = [Job(0, "missing", ["seed=0"]), Job(1, "missing", ["seed=7"])]
    settings = settings_with(output_dir=str(tmp_path), resume=True)
    assert read_index(folder) is None
    assert plan_sweep(Index([], jobs, "now"), settings, tmp_path / "new").folder == folder
    assert [job.state for job in read_index(folder).jobs] == ["failed", "missing"]
    assert (other / "sweep.json").read_text() == ""


def test_a_sweep_that_is_done_or_runs_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "seed=0"]
    folder = tmp_path / "outputs/mine"
    start_index(folder, Index(words, [Job(0, "missing", words)], "now"))
    with locked(folder / "run.lock"):
        assert sweep_here("seed=0", "resume=true") == 2
    assert "outputs/mine is already running, as process" in capsys.readouterr().err
    job = job_start(folder)
    write_json(job.folder.job, {"number": 0, "overrides": words})
    write_record(record(), job.folder.record)
    assert sweep_here("seed=0", "resume=true") == 0
    assert capsys.readouterr().out == f"already done: {folder}\n"
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["mine"]


def test_a_sweep_is_shown_as_it_is_and_not_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [["task.subtasks=[qa1]", "name=[/b]"], ["task.subtasks=[qa2]", "name=:a:"]]
    start_sweep(tmp_path, jobs)
    job, before = job_start(tmp_path), tmp_path.stat().st_mtime_ns
    job.folder.job.write_text(json.dumps({"number": 0, "overrides": jobs[0]}))
    job.folder.failed.write_text(json.dumps({"reason": "no [/i] there"}))
    index = (tmp_path / "sweep.json").read_bytes()
    assert sweep_cli.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for words in ("task.subtasks=[qa1] name=[/b]", "task.subtasks=[qa2] name=:a:", "no [/i] there"):
        assert words in shown
    assert (tmp_path / "sweep.json").read_bytes() == index
    assert tmp_path.stat().st_mtime_ns == before
