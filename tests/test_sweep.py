"""Sweeps: killed and gone on with, with jobs that fail; what the index says and what is chosen."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from pathlib import Path

import pytest
from tiny_sweeps import installed, only_index, start, steps_of, sweep

from atlas_bench import cli, sweep_cli
from atlas_bench.config import ConfigError, register_schema, to_settings
from atlas_bench.report.cli import main as report
from atlas_bench.sweep import do_job, read_index, refresh_index, start_index, sweep_identity
from atlas_bench.tasks.registry import make_task, validation_settings


def test_killed_half_way_and_started_again_it_does_what_is_missing(tmp_path: Path) -> None:
    """12 jobs, `kill -9` of the parent after the fifth: 12 records, none twice, none lost."""
    words = ["mode=train", "seed=0,1,2,3,4,5", "training.learning_rate=1e-3,2e-3"]
    process = start(*words, folder=tmp_path)
    deadline = time.monotonic() + 240
    while len(done := list(tmp_path.glob("outputs/*/*/*/record.json"))) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = {path: path.read_bytes() for path in done}
    folder, index = only_index(tmp_path)
    assert len(index.jobs) == 12
    assert len(index.of("missing")) >= 5
    code, said, errors = sweep(*words, "resume=true", folder=tmp_path)
    assert code == 0, errors
    folder, index = only_index(tmp_path)  # and no other sweep beside it
    assert [job.number for job in index.of("done")] == list(range(12))
    assert len({job.identity for job in index.jobs}) == 12
    assert f"{folder}: 12 of 12 jobs done" in said
    assert {path: path.read_bytes() for path in before} == before
    for job in index.jobs:
        assert steps_of(folder / job.folder) == [1, 2, 3, 4]
    records = [json.loads(path.read_text()) for path in folder.glob("*/record.json")]
    drawn = {(each["seed"], each["config"]["training"]["learning_rate"]) for each in records}
    assert drawn == {(seed, rate) for seed in range(6) for rate in (1e-3, 2e-3)}


def test_one_failed_job_stops_no_other_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["training.learning_rate=2e-3,-1,4e-3", "validation_samples=2"]
    code, said, errors = sweep(*words, folder=tmp_path)
    reason = "training.learning_rate=-1.0 must be above 0"
    assert code == 1
    assert f"job 1 failed: {reason}" in errors
    assert "Traceback" not in errors
    assert "2 of 3 jobs done" in said
    folder, index = only_index(tmp_path)
    assert [(job.state, job.reason) for job in index.jobs] == [
        ("done", None), ("failed", reason), ("done", None),
    ]  # fmt: skip
    assert "training.learning_rate=-1" in index.jobs[1].overrides
    records = {path: path.read_bytes() for path in folder.glob("*/record.json")}
    for content in map(json.loads, records.values()):
        assert {score["samples"] for score in content["validation"]} == {2}
    assert report([str(folder)]) == 0
    assert f"failed: {folder / index.jobs[1].folder}: {reason}" in capsys.readouterr().err
    assert sweep_cli.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert reason in shown
    assert "best of 2 for deltanet tiny on mqar: training.learning_rate=0.00" in shown
    code, said, errors = sweep(*words, "resume=true", folder=tmp_path)
    assert code == 1
    assert {path: path.read_bytes() for path in folder.glob("*/record.json")} == records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "package", "extra"),
    [
        ("ray", "hydra_ray_launcher", ["hydra.launcher.ray.init.num_cpus=2"]),
        ("slurm_local", "hydra_submitit_launcher", []),
        ("local_processes", "hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    ],
)
def test_launchers_run_a_sweep_of_four(
    hardware: str, package: str, extra: list[str], tmp_path: Path
) -> None:
    if not installed(package):
        pytest.skip(f"{package} is not installed: pip install 'atlas-bench[sweep]'")
    words = ["seed=0,1", "training.learning_rate=1e-3,-1", f"hardware={hardware}", *extra]
    code, said, errors = sweep(*words, folder=tmp_path)
    folder, index = only_index(tmp_path)
    assert [job.state for job in index.jobs] == ["done", "failed"] * 2, errors
    assert code == 1
    assert "2 of 4 jobs done" in said
    assert "Traceback" not in errors


@pytest.mark.slow
def test_optuna_looks_at_validation_and_repeats_its_draws(tmp_path: Path) -> None:
    if not installed("hydra_optuna_sweeper"):
        pytest.skip("hydra_optuna_sweeper is not installed: pip install 'atlas-bench[sweep]'")
    words = ["sweep=optuna", "hydra.sweeper.n_trials=4", "validation_samples=1", "mode=train"]
    process = start(*words, folder=tmp_path)
    while not list(tmp_path.glob("outputs/*/*/1-*/record.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = {path: path.read_bytes() for path in tmp_path.glob("outputs/*/*/*/record.json")}
    code, said, errors = sweep(*words, "resume=true", folder=tmp_path)
    assert code == 0, errors
    _, index = only_index(tmp_path)
    assert len(index.of("done")) == len(index.jobs) == 4
    assert len({job.identity for job in index.jobs}) == 4
    assert {path: path.read_bytes() for path in before} == before


# the parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["babilong", "s_niah"])
def test_validation_samples_are_of_the_task_but_not_the_tests(task: str) -> None:
    register_schema()
    settings = to_settings(cli._compose([f"task={task}", "validation_samples=3"]))
    tested, validated = (
        make_task(each, settings.text, seed=0, question_every=10)
        for each in (settings.task, validation_settings(settings.task, 3))
    )
    assert tested.cells() == validated.cells()
    assert tested.vocab_size == validated.vocab_size
    cell = tested.cells()[-1]
    assert validated.samples == 3
    test, validation = (
        [each.context_ids.tolist() for each in made.asked(cell, 3)] for made in (tested, validated)
    )
    assert len(validation) == 3
    assert not any(sample in test for sample in validation)


def test_a_sweep_is_the_same_wherever_it_runs() -> None:
    config = {"seed": 0, "logger": {"mode": "offline"}}
    same = sweep_identity(config, ["seed=0,1", "model=atlas"])
    elsewhere = ["model=atlas", "seed=0,1", "resume=true", "logger=none", "output_dir=x",
                 "hydra.launcher.n_jobs=2", "hydra.sweep.dir=y"]  # fmt: skip
    assert sweep_identity(config | {"logger": None}, elsewhere) == same
    assert sweep_identity(config, ["seed=0,1,2", "model=atlas"]) != same
    assert sweep_identity(config | {"seed": 1}, ["seed=0,1", "model=atlas"]) != same


def job_folder(folder: Path, number: int = 0) -> Path:
    """A job's folder as Hydra leaves it before the job starts."""
    job = folder / f"{number}-name"
    (job / ".hydra").mkdir(parents=True)
    text = f"hydra:\n  job:\n    num: {number}\n  overrides:\n    task:\n    - seed={number}\n"
    (job / ".hydra/hydra.yaml").write_text(text)
    return job


def test_a_job_is_done_once_and_again_when_it_failed(tmp_path: Path) -> None:
    start_index(tmp_path, "same", ["seed=0"], [["seed=0"]])
    job, calls = job_folder(tmp_path), []

    def fails() -> None:
        calls.append("fails")
        raise ConfigError("key=1 must be\n2")

    def works() -> None:
        calls.append("works")
        (job / "record.json").write_text("{}")

    assert do_job(job, fails) is None
    (line,) = read_index(tmp_path).jobs
    assert (line.state, line.reason) == ("failed", "key=1 must be 2")
    assert "ConfigError" in json.loads((job / "failed.json").read_text())["traceback"]
    assert do_job(job, works) == do_job(job, works) == job / "record.json"
    assert calls == ["fails", "works"]
    (line,) = read_index(tmp_path).jobs
    assert (line.state, line.reason, line.overrides) == ("done", None, ["seed=0"])


def test_what_stops_a_sweep_is_no_failure_of_its_job(tmp_path: Path) -> None:
    start_index(tmp_path, "same", [], [["seed=0"], ["seed=1"]])

    def stopped() -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        do_job(job_folder(tmp_path), stopped)
    assert [job.state for job in read_index(tmp_path).jobs] == ["unfinished", "missing"]


def test_two_processes_never_do_the_same_job_at_once(tmp_path: Path) -> None:
    start_index(tmp_path, "same", [], [["seed=0"]])
    job, calls = job_folder(tmp_path), []
    with (job / "job.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: do_job(job, lambda: calls.append("again")))
        waiting.start()
        time.sleep(0.2)
        assert calls == []
        (job / "record.json").write_text("{}")  # the other process ends well
    waiting.join(timeout=10)
    assert calls == []


def test_an_index_outlives_damage_to_a_job(tmp_path: Path) -> None:
    start_index(tmp_path, "same", [], [["seed=0"]])
    (job_folder(tmp_path) / ".hydra/hydra.yaml").write_text("hydra: {job")
    (job_folder(tmp_path, 1) / "config.json").write_text("")
    assert [job.state for job in refresh_index(tmp_path).jobs] == ["missing", "unfinished"]
