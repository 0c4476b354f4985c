"""Which saved run is the run of a config."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from in_process import atlas_bench
from made_records import record
from tiny_sweeps import TINY

from atlas_bench.artifacts.checkpoint import find_checkpoint
from atlas_bench.artifacts.folder import RunFolder, write_json
from atlas_bench.artifacts.lock import AlreadyRunning, locked, this_process
from atlas_bench.artifacts.records import read_record, write_record
from atlas_bench.artifacts.saved_config import write_config
from atlas_bench.cli import run as cli_run
from atlas_bench.cli.command import read_command
from atlas_bench.config.errors import ConfigError
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.runs.resume import folder_to_resume
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.babilong.task import BabilongSettings
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.training.settings import TrainingSettings, with_stages


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was stopped."""
    folder = RunFolder(tmp_path / "outputs/run")
    write_config(folder.config, asdict(settings(tmp_path)))
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    return folder


def settings(tmp_path: Path, resume: object = True) -> RunSettings:
    return RunSettings(
        name="run",
        resume=resume,
        output_dir=str(tmp_path / "outputs"),
        model=ModelSettings(name="atlas"),
        scale=ScaleSettings(name="tiny"),
        task=BabilongSettings(),
        training=with_stages(TrainingSettings(), BabilongSettings()),
    )


def not_found(tmp_path: Path) -> bool:
    """Whether ``resume=true`` says that there is no run of the config."""
    with pytest.raises(ConfigError, match="has no run of this config; without resume a new one"):
        folder_to_resume(settings(tmp_path))
    return True


def edit(folder: RunFolder, *path: str, value: object = None) -> None:
    """Change a key of the saved config; without a value remove it."""
    config = json.loads(folder.config.read_text())
    *groups, key = path
    group = config
    for name in groups:
        group = group[name]
    if value is None:
        del group[key]
    else:
        group[key] = value
    write_json(folder.config, config)


def test_the_unfinished_run_of_the_same_config_is_found(run: RunFolder, tmp_path: Path) -> None:
    assert folder_to_resume(settings(tmp_path)) == run.path
    edit(run, "seed", value=1)
    assert not_found(tmp_path)
    with pytest.raises(ConfigError, match="another config: seed was 1 there and is 0 here"):
        folder_to_resume(settings(tmp_path, str(run)))


def test_a_run_saved_before_a_key_existed_is_resumed(run: RunFolder, tmp_path: Path) -> None:
    edit(run, "format")
    edit(run, "model", "memory", "branch_norm")
    edit(run, "task", "samples")
    edit(run, "validation_samples")
    edit(run, "hardware", "prefill_chunk")
    edit(run, "hardware", "piece_tokens", value=2048)
    stages = asdict(settings(tmp_path))["training"]["curriculum"]["stages"]
    for stage in stages:
        stage["price"] = stage.pop("penalty_scale")
    edit(run, "training", "curriculum", "stages", value=stages)
    assert folder_to_resume(settings(tmp_path)) == run.path
    edit(run, "hardware", "piece_tokens", value=512)
    with pytest.raises(ConfigError, match="hardware.prefill_chunk was 512 there and is 2048 here"):
        folder_to_resume(settings(tmp_path, str(run)))


@pytest.mark.parametrize("path", [("model", "memory", "chnk"), ("seeed",), ("task", "lengthss")])
def test_an_unknown_key_is_refused(path: tuple[str, ...], run: RunFolder, tmp_path: Path) -> None:
    edit(run, *path, value=1)
    with pytest.raises(ConfigError, match=f"config.json: {'.'.join(path)} is not a key"):
        folder_to_resume(settings(tmp_path, str(run)))
    assert not_found(tmp_path)


def test_another_task_is_another_config(run: RunFolder, tmp_path: Path) -> None:
    edit(run, "task", "name", value="mad")
    with pytest.raises(ConfigError, match="task.name was mad there and is babilong here"):
        folder_to_resume(settings(tmp_path, str(run)))


def test_other_evaluations_are_another_config(run: RunFolder, tmp_path: Path) -> None:
    edit(run, "evaluations", value={"more": {"name": "mad"}})
    with pytest.raises(ConfigError, match="evaluations.more.name was mad there and is None here"):
        folder_to_resume(settings(tmp_path, str(run)))


def test_a_damaged_config_is_named(run: RunFolder, tmp_path: Path) -> None:
    run.config.write_text("{")
    with pytest.raises(ConfigError, match="config.json is not valid JSON"):
        folder_to_resume(settings(tmp_path, str(run)))
    assert not_found(tmp_path)


def test_a_damaged_checkpoint_costs_its_steps_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "mode=train"]
    assert atlas_bench(*words, "hydra.run.dir=run") == 0
    folder = RunFolder(tmp_path / "run")
    lines = [line.split('"tokens_per_second"')[0] for line in folder.metrics.open()]
    folder.record.unlink()
    weights = folder.checkpoints / "step-00000004/model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    capsys.readouterr()
    assert atlas_bench("mode=eval", "checkpoint=run", "task=mqar", "logger=none") == 2
    assert "step-00000004/model.safetensors is damaged" in capsys.readouterr().err
    assert atlas_bench(*words, "resume=run") == 0
    assert "resuming at step 2" in capsys.readouterr().out
    assert weights.read_bytes() == intact
    assert [line.split('"tokens_per_second"')[0] for line in folder.metrics.open()] == lines


def test_a_run_continues_with_its_own_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the file that ``text.tokenizer`` names has changed."""
    monkeypatch.chdir(tmp_path)
    words = [
        "model=deltanet", "mode=train", "training.tokens=512", "training.batch_tokens=128",
        "training.checkpoint_every=2", "logger=none", "hardware.device=cpu",
        "text.tokenizer=tokenizer.json",
    ]  # fmt: skip
    shared_tokenizer(vocab_size=1024).save(tmp_path)
    assert atlas_bench(*words, "hydra.run.dir=run") == 0
    folder = RunFolder(tmp_path / "run")
    weights = find_checkpoint(folder.path) / "model.safetensors"
    intact = weights.read_bytes()
    folder.record.unlink()
    weights.write_bytes(b"damaged")
    shared_tokenizer(vocab_size=1023).save(tmp_path)
    assert atlas_bench(*words, "resume=run") == 0
    assert weights.read_bytes() == intact


# what resume=true chooses ------------------------------------------------------------------


def test_a_run_that_is_alive_is_not_chosen(run: RunFolder, tmp_path: Path) -> None:
    write_json(run.lock, asdict(this_process()))
    with pytest.raises(AlreadyRunning, match="run is already running, as process"):
        folder_to_resume(settings(tmp_path))
    write_json(run.lock, asdict(this_process()) | {"started": 0.0})  # it was killed
    assert folder_to_resume(settings(tmp_path)) == run.path


def test_an_unfinished_run_comes_before_a_finished_one(run: RunFolder, tmp_path: Path) -> None:
    done = RunFolder(tmp_path / "outputs/done")
    write_config(done.config, asdict(settings(tmp_path)))
    write_record(record(), done.record)
    assert folder_to_resume(settings(tmp_path)) == run.path
    write_record(record(), run.record)
    assert folder_to_resume(settings(tmp_path)) == done.path
    run.record.write_text("{")  # damaged, so it is not finished
    assert folder_to_resume(settings(tmp_path)) == run.path


def test_a_run_killed_before_its_first_checkpoint_is_found(run: RunFolder, tmp_path: Path) -> None:
    (run.checkpoints / "step-00000001").rmdir()
    assert folder_to_resume(settings(tmp_path)) == run.path


def test_no_bad_file_stops_the_search(run: RunFolder, tmp_path: Path) -> None:
    """Keys with values of another kind, other JSON, and files that are none."""
    bad = RunFolder(tmp_path / "outputs/bad/deeper")
    bad.path.mkdir(parents=True)
    config = json.loads(run.config.read_text())
    for key in ("task", "training", "evaluations", "trained_on"):
        for value in (None, [[]], {"name": []}):
            bad.config.write_text(json.dumps(config | {key: value}))
            assert folder_to_resume(settings(tmp_path)) in (run.path, bad.path)
    for content in (b"", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"format": []}', b"{}"):
        bad.config.write_bytes(content)
        assert folder_to_resume(settings(tmp_path)) == run.path
    bad.config.unlink()
    os.mkfifo(bad.config)
    (tmp_path / "outputs/other/config.json").mkdir(parents=True)
    (tmp_path / "outputs/dangling").symlink_to(tmp_path / "nowhere")
    assert folder_to_resume(settings(tmp_path)) == run.path


def test_a_folder_named_by_hydra_run_dir_is_continued_or_started(
    run: RunFolder, tmp_path: Path
) -> None:
    """So the same command can stand in a job script that is submitted several times."""
    assert folder_to_resume(settings(tmp_path), run.path) == run.path
    assert folder_to_resume(settings(tmp_path), tmp_path / "new") == tmp_path / "new"
    edit(run, "seed", value=1)
    with pytest.raises(ConfigError, match="another config: seed was 1 there and is 0 here"):
        folder_to_resume(settings(tmp_path), run.path)


# the command -------------------------------------------------------------------------------


def test_a_finished_run_is_not_done_again_and_one_that_runs_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "mode=train"]
    assert atlas_bench(*words, "resume=true") == 2
    assert "outputs has no run of this config; without resume a new one" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
    assert atlas_bench(*words, "hydra.run.dir=outputs/mine") == 0
    (run,) = map(RunFolder, (tmp_path / "outputs").iterdir())
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    capsys.readouterr()
    for resume in ("true", "outputs/mine"):
        assert atlas_bench(*words, f"resume={resume}") == 0
        assert "already done: outputs/mine/record.json" in capsys.readouterr().out
    assert atlas_bench(*words, "hydra.run.dir=outputs/mine") == 2
    assert "outputs/mine holds another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    with locked(run.lock):
        assert atlas_bench(*words, "hydra.run.dir=outputs/mine") == 2
        assert "outputs/mine is already running" in capsys.readouterr().err
    run.record.write_text("{")
    assert atlas_bench(*words, "resume=true") == 0
    assert "resuming at step 4" in capsys.readouterr().out
    assert read_record(run.record).train_tokens == 512
    assert (run.path / "record.damaged.json").read_text() == "{"
    assert not run.lock.exists()
    run.record.unlink()
    shutil.rmtree(run.checkpoints)  # as if it was killed before the first checkpoint
    assert atlas_bench(*words, "resume=true") == 0
    assert [json.loads(line)["step"] for line in run.metrics.open()] == [1, 2, 3, 4]


def test_an_evaluation_without_a_checkpoint_does_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert atlas_bench("mode=eval", "resume=true", "hydra.run.dir=new", "logger=none") == 2
    assert "mode=eval needs checkpoint=PATH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trust B13."""
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "mode=train", "training.tokens=128"]
    same = "hydra.job.name=atlas-bench"  # an override that is not hydra.run.dir
    command = read_command([*words, same])
    monkeypatch.setattr(cli_run, "read_command", lambda _: command)  # composed in that second
    assert [atlas_bench(*words), atlas_bench(*words)] == [0, 0]
    first, second = sorted((tmp_path / "outputs").glob("*/*"))
    assert second.name == f"{first.name}-2"
    assert len((second / "metrics.jsonl").read_text().splitlines()) == 1
    assert (second / ".hydra/overrides.yaml").is_file()
