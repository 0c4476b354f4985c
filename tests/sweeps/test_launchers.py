"""Sweeps with the packages of the extra [sweep]: launchers, and Optuna as the sweeper."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from tiny_sweeps import installed, only_index, start, sweep

from atlas_bench.sweeps.index import read_index


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
        pytest.skip(f"{package} is not installed: pip install -e '.[sweep]'")
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
        pytest.skip("hydra_optuna_sweeper is not installed: pip install -e '.[sweep]'")
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
    folder, index = only_index(tmp_path)
    assert len(index.of("done")) == len(index.jobs) == 4
    assert len({(folder / job.folder / "config.json").read_text() for job in index.jobs}) == 4
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_draw_of_optuna_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    """Later draws rest on it: they would differ, and find records of others in their folders."""
    if not installed("hydra_optuna_sweeper"):
        pytest.skip("hydra_optuna_sweeper is not installed: pip install -e '.[sweep]'")
    words = ["sweep=optuna", "hydra.sweeper.n_trials=5", "validation_samples=1", "mode=train",
             "hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweep.dir=mine"]  # fmt: skip
    broken = tmp_path / "mine/1-deltanet-mqar/checkpoints"
    broken.parent.mkdir(parents=True)
    broken.touch()
    code, said, errors = sweep(*words, folder=tmp_path)
    broken.unlink()
    assert code == 1
    assert "1 failed and 0 left; the same command with resume=true does those left, no" in errors

    def drawn() -> dict[str, str]:
        paths = (tmp_path / "mine").glob("*/record.json")
        records = {path.parent.name: json.loads(path.read_text()) for path in paths}
        return {
            name: f"training.learning_rate={record['config']['training']['learning_rate']}"
            for name, record in records.items()
        }

    before = drawn()
    assert len(before) == 4
    shutil.rmtree(tmp_path / "mine/4-deltanet-mqar")  # as if it had not come to that
    code, said, errors = sweep(*words, "resume=true", folder=tmp_path)
    assert code == 1
    assert drawn() == before
    index = read_index(tmp_path / "mine")
    assert [job.state for job in index.jobs] == ["done", "failed", "done", "done", "done"]
    assert all(before[job.folder] in job.overrides for job in index.of("done"))
