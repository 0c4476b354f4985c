"""The command line: help, printed config, and one sentence for every mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import pytest
import torch
from hydra.types import RunMode
from in_process import atlas_bench
from presets import NEED_GPU
from tiny_sweeps import installed

from atlas_bench.cli import run as cli
from atlas_bench.cli.command import read_command, split_words
from atlas_bench.cli.compose import compose, compose_settings, parse_overrides
from atlas_bench.cli.shorthand import written_out
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.memory import fla
from atlas_bench.runs import checks
from atlas_bench.runs.checks import check_machine
from atlas_bench.sweeps.index import read_index
from atlas_bench.sweeps.plan import Plan, plan_sweep
from atlas_bench.tasks.babilong.task import BabilongSettings
from atlas_bench.training.settings import TrainingSettings

BAD = [
    (["modell=atlas"], "modell", "did you mean model?"),
    (["model.memroy.window=3"], "model.memroy", "did you mean memory?"),
    (["training.curriculum.stage=[64]"], "training.curriculum.stage", "did you mean stages?"),
    (["training.curriculum.stages=[{length:8}]"], "training.curriculum.stages", "at least 64"),
    (["model=atlsa"], "model=atlsa is not one of armt, atlas, ", "did you mean atlas?"),
    (["task=babylong"], "task=babylong", "did you mean babilong?"),
    (["training.tokens=many"], "training.tokens=many", "Integer"),
    (["seed=[1]"], "seed=[1]", "Integer"),
    (["model.hub.x=1"], "model.hub.x=1", "model.hub is null"),
    (["+model.hub.dtype=auto"], "+model.hub.dtype=auto", "model.hub is null"),
    (["model.hub={dtype:auto}"], "model.hub={dtype:auto}", "model.hub is null"),
    (["training.epochs.x=1"], "training.epochs", "could not be converted to Float"),
    (["resume.x=1"], "resume.x is not a key", "of the config"),
    (["model=null"], "group override", "string"),
    (
        ["-m", "model=hf,atlas", "model.name=.", "model.hub.dtype=auto", "mode=eval"],
        "model.hub is null",
        "dtype",
    ),
    (["mode=trian"], "mode=trian is not one of train, eval, train_eval", "did you mean train?"),
    (["task.subtasks=[qa21]"], "task.subtasks=qa21", "qa1"),
    (["task.lengths=[100]"], "task.lengths", "300"),
    (["task.lengths=[soon]"], "task.lengths", "0k"),
    (["task.samples=0"], "task.samples=0", "at least 1"),
    (["scale.heads=5", "model=transformer"], "scale.heads=5 does not divide", "use one of"),
    (["scale.memory_heads=3"], "scale.memory_heads=3 does not divide", "use one of"),
    (["model.memory.update_every=9"], "model.memory.window=8 is smaller than", "at least 9"),
    (["model.memory.chunk=18"], "model.memory.chunk=18 is not a multiple of", "use 20"),
    (["model.memory.optimizer=moun"], "model.memory.optimizer=moun", "did you mean muon?"),
    (["text.source=folder"], "text.source=folder needs text.folder=PATH", ".txt"),
    (["text=folder", "text.folder=nowhere"], "text.folder: there is no folder nowhere", ""),
    (["task=lm", "text=folder", "text.folder=nowhere"], "text.folder: there is no folder", ""),
    (["mode=eval"], "mode=eval needs checkpoint=PATH", "checkpoint"),
    (["checkpoint=x"], "checkpoint=PATH is for mode=eval", "resume=PATH"),
    (["resume=nowhere"], "resume=nowhere is not a run's folder", "config.json"),
    (["logger.mode=on"], "logger.mode=on is not one of online, offline, disabled", "online"),
    (["hardware.threads=0"], "hardware.threads=0", "at least 1"),
    (["training.tokens"], "training.tokens", "key=value"),
    (["seed=0,1"], "seed=0,1 is a list of choices", "add -m"),
    (["validation_samples=-1"], "validation_samples=-1", "at least 0"),
    (["task.source=hub", "validation_samples=9"], "validation_samples=9", "validation_samples=0"),
    (["-m", "seed=0,1", "resume=nowhere"], "nowhere is not a sweep's folder", "sweep.json"),
    (["-m", "model=atlas,atlsa"], "model=atlsa is not one of armt, atlas", "did you mean atlas?"),
    (["-m", "training.tokens=64,many"], "training.tokens", "Integer"),
    (["-m", "training=glob(z*)"], "training=glob(z*)", "empty list of choices"),
    (["-m", "training.learning_rate=interval(1,2)"], "interval(1,2)", "give a list of values"),
    (["-m", "training.learning_rate=1e-3,-1"], "training.learning_rate=-1.0", "above 0"),
    (["-m", "task.lengths=0k,zz"], "task.lengths: 'zz'", "0k, 16k"),
    (["learning_rate=4"], "learning_rate", "did you mean training.learning_rate or task."),
    (["text.folder=~/x"], "text.folder=~/x cannot", f"\"text.folder='{Path.home()}/x'\""),
    (["text.folder=/a (b)"], "text.folder=/a (b) cannot", "\"text.folder='/a (b)'\""),
    (["a b=c"], "a b=c is not an override", "key=value"),
    (["--config-dir", "nowhere"], "--config-dir nowhere is not a folder", ""),
    (["--config-path", "RUN/.hydra"], "--config-path is not supported", "resume=RUN"),
    (["--experimental-rerun", "x"], "--experimental-rerun is not supported", "resume=RUN"),
    (["mode=eval", "model=hf"], "model=hf needs model.name=REPOSITORY", "local folder"),
    (["mode=eval", "model=hf", "model.name=./no"], "model.name=./no: there is no", "folder"),
    (["seed=0", "--multi"], "--multi is not a flag", "did you mean --multirun?"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "key", "right"), BAD, ids=lambda value: str(value)[:40])
def test_each_bad_input_is_one_sentence_and_exit_code_2(
    overrides: list[str],
    key: str,
    right: str,
    capsys,
    monkeypatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["atlas-bench", *overrides])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0, said
    assert said.startswith("atlas-bench: ")
    assert key in said
    assert right in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == [], "a bad input must leave nothing behind"


@pytest.mark.parametrize("name", NEED_GPU)
@pytest.mark.parametrize("words", [[], ["mode=describe"], ["hardware=gpu"], ["-m", "seed=0,1"]])
def test_a_model_that_needs_a_gpu_says_so(
    name: str, words: list[str], capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["atlas-bench", f"model={name}", "scale.layers=3", *words])
    with without_gpu(), pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said == (
        f"atlas-bench: model={name} runs on flash-linear-attention's kernels, which need a GPU, "
        f"and torch sees none; use a machine that has one, or another model"
    )
    assert list(tmp_path.iterdir()) == []


def check(words: list[str]) -> Plan | None:
    """What a command does before its first job; a sweep's plan."""
    command = read_command(words)
    cli.check(command)
    if not command.is_sweep:
        return None
    return plan_sweep(command.index(), command.settings, Path(command.hydra.sweep.dir))


@contextmanager
def without_gpu(*, but_one: bool = False, installed: bool = False) -> Iterator[None]:
    """What torch sees, and whether Python finds the kernels."""
    fla.unavailable_reason.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: but_one)
        patch.setattr(fla, "find_spec", lambda name: installed or None)
        patch.setattr(fla.importlib.metadata, "version", lambda name: "3.6.0+git1")
        patch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        yield
    fla.unavailable_reason.cache_clear()


def test_what_else_the_kernels_need() -> None:
    """The package, a compiler that is right on this GPU, and the GPU to be allowed."""
    gated = compose_settings(["model=kda"])
    with without_gpu(but_one=True), pytest.raises(ConfigError, match=r"'\.\[gpu\]'$"):
        check_machine(gated)
    with without_gpu(but_one=True, installed=True), pytest.raises(ConfigError, match="3.7.1$"):
        check_machine(gated)
    with without_gpu(but_one=True, installed=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
        check_machine(gated)
        gated.hardware.device = "cpu"
        with pytest.raises(ConfigError, match="hardware.device=auto or cuda$"):
            check_machine(gated)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mode=eval", "checkpoint=nowhere"], "nowhere is not a checkpoint"),
        (["text.tokenizer=nowhere"], "text.tokenizer"),
        (["task.subtasks=[qa2]", "task.lengths=[301]", "mode=train_eval"], "task.lengths"),
        (["model.memory.expansion=40"], "cannot match"),
    ],
)
def test_what_only_shows_while_running_is_one_sentence_too(
    overrides: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert atlas_bench(*overrides, "training.tokens=64", "logger=none") == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1, stderr


def test_help_and_printed_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert atlas_bench("--help") == 0
    shown = capsys.readouterr().out
    assert "_schema" not in shown
    for word in ("model: armt, atlas, atlas_identity", "atlas-bench-report outputs/", "--cfg job"):
        assert word in shown
    assert atlas_bench("--cfg", "job", "model=titans") == 0
    assert "optimizer: momentum" in capsys.readouterr().out
    assert atlas_bench("--version") == 0
    assert capsys.readouterr().out.startswith("atlas-bench 0.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("task.subtasks=qa1", "task.subtasks=[qa1]"),
        ("task.lengths=16k,1M", "task.lengths=[16k],[1M]"),
        ("task.lengths=[16k,1M]", "task.lengths=[16k,1M]"),
        ("training.tokens=1M,1.5k,2e6", "training.tokens=1000000,1500,2000000"),
        ("training.tokens=many", "training.tokens=many"),
        ("hardware.threads=null", "hardware.threads=null"),
        ("training.learning_rate=1M", "training.learning_rate=1M"),
        ("model=atlas", "model=atlas"),
        ("seed=1.5", "seed=1.5"),
    ],
)
def test_short_forms_of_values_are_accepted(word: str, written: str) -> None:
    assert written_out(word) == written


def test_a_folder_of_own_configs_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own/model").mkdir(parents=True)
    (tmp_path / "own/model/mine.yaml").write_text("name: mine\nmixers: [attention]\n")
    monkeypatch.chdir(tmp_path)
    words = ["model=mine", "task.lengths=1k", "training.tokens=1M"]
    settings = read_command(["--config-dir", "own", *words]).settings
    assert (settings.model.name, settings.task.lengths) == ("mine", ["1k"])
    assert settings.training.tokens == 10**6
    assert atlas_bench("--config-dir=own", *words, "--cfg", "job") == 0
    assert "name: mine" in capsys.readouterr().out


FOREIGN = [
    ({"task": {"name": "../../x"}}, "task.name=../../x is not one of babilong"),
    ({"task": {"name": "lm", "lengths": ["${oc.env:HOME}"]}}, "has ${...} in a value"),
    ({"model": {"name": "${oc.env:HOME}"}}, "has ${...} in a value"),
    ({"task": [1]}, "task is not a JSON object"),
    ({"model": 3}, "model is not a JSON object"),
    ({"text": "x"}, "text is not a JSON object"),
    ({"model": {"a": json.loads("[" * 90 + "]" * 90)}}, "nested more than 50 deep"),
]


@pytest.mark.parametrize(("change", "message"), FOREIGN)
def test_the_config_of_a_foreign_checkpoint_is_data_alone(
    change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trust B16."""
    config = {"model": {"name": "atlas"}, "scale": {"name": "tiny"}} | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert atlas_bench("mode=eval", f"checkpoint={tmp_path}") == 2
    said = capsys.readouterr().err
    assert message in said
    assert str(tmp_path / "config.json") in said
    assert said.count("\n") == 1


def test_a_folder_of_the_hub_is_not_a_checkpoint_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trust C19."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").touch()
    assert atlas_bench("mode=eval", f"checkpoint={tmp_path}") == 2
    said = capsys.readouterr().err
    assert "has no model, so it is not the config of a run; a pretrained model is evaluated" in said


def test_a_pretrained_model_names_the_packages_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = compose_settings(["mode=eval", "model=hf", "model.name=some/model"])
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"transformers and accelerate; .* pip install -e '\.\[hf\]'"
    ):
        check_machine(settings)


@pytest.mark.parametrize("scale", ["tiny", "170m", "340m", "760m", "1.3b"])
@pytest.mark.parametrize("model", ["atlas", "titans", "transformer"])
def test_every_model_composes_at_every_scale(model: str, scale: str) -> None:
    settings = compose_settings([f"model={model}", f"scale={scale}"])
    assert settings.scale.name == scale
    assert settings.model.name == model


def test_the_default_training_stands_the_same_in_conf_and_in_the_settings() -> None:
    training = compose_settings([]).training
    assert training.curriculum.stages == list(BabilongSettings.default_stages)
    training.curriculum.stages = None  # checked settings hold the task's own
    assert training == TrainingSettings()


def test_flags_are_not_taken_for_overrides() -> None:
    words = ["seed=1", "--cfg", "job", "model=titans", "-m", "~logger"]
    assert split_words(words) == (["--cfg", "job", "-m"], ["seed=1", "model=titans", "~logger"])


def test_a_sweep_is_checked_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = check(["-m", "model=atlas,titans", "seed=0,1"])
    assert [job.state for job in read_index(plan.folder).jobs] == ["missing"] * 4
    words = ["-m", "+experiment=table8_340m/laptop", "model=atlas,titans", "hydra.sweep.dir=mine"]
    jobs = read_index(check(words).folder).jobs
    assert [job.overrides[0] for job in jobs] == ["model=atlas", "model=titans"]
    with pytest.raises(ConfigError, match="holds a sweep already"):
        check(words)
    with pytest.raises(
        ConfigError, match="another command: atlas-bench -m .experiment=table8_340m"
    ):
        check([*words, "seed=1", "resume=true"])
    assert not check([*words, "resume=true"]).created
    with pytest.raises(ConfigError, match="did you mean atlas"):
        check(["-m", "model=atlsa,titans"])
    jobs = read_index(check(["-m", "model=glob(titans_ma*)", "seed=1"]).folder).jobs
    assert [job.overrides for job in jobs] == [
        [f"model=titans_{each}", "seed=1"] for each in ("mac", "mag", "mal")
    ]
    command = read_command(["-m", "task=mad", "model=deltanet", "training=glob(m*)"])
    assert len(list(command.settings_of_jobs())) == 3
    sweep = ["-m", "model=atlas,mamba2", "seed=0,1"]
    has_slurm = installed("hydra_submitit_launcher")
    with without_gpu():
        with pytest.raises(ConfigError, match="^model=mamba2 runs on"):
            check(sweep)
        if has_slurm:  # whose jobs may run on machines with a GPU: each looks for itself
            assert check([*sweep, "hardware=slurm"]) is not None


def test_a_sweep_over_models_composes_its_config_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    composed, original = [], hydra.compose
    monkeypatch.setattr(
        hydra,
        "compose",
        lambda *words, **options: composed.append(words) or original(*words, **options),
    )
    assert check(["-m", "model=atlas,titans,transformer"]) is not None
    assert len(composed) == 1


@pytest.mark.parametrize(
    ("word", "package"),
    [
        ("hardware=local_processes", "hydra_joblib_launcher"),
        ("hardware=slurm", "hydra_submitit_launcher"),
        ("hardware=slurm_local", "hydra_submitit_launcher"),
        ("hardware=ray", "hydra_ray_launcher"),
        ("sweep=optuna", "hydra_optuna_sweeper"),
    ],
)
def test_sweeps_on_clusters_name_their_extra(
    word: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the extra is installed these compose; else one sentence says how to get it."""
    monkeypatch.chdir(tmp_path)
    if not installed(package):
        with pytest.raises(ConfigError, match=r"pip install -e '\.\[sweep\]'$"):
            check([word])
        assert list(tmp_path.iterdir()) == []
    else:
        assert check([word]).created


@pytest.mark.parametrize(
    "path", sorted((folder_of("conf") / "sweep").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_grid_composes_with_a_model_it_suits(path: Path) -> None:
    if path.stem == "optuna" and not installed("hydra_optuna_sweeper"):
        pytest.skip("hydra_optuna_sweeper is not installed: pip install -e '.[sweep]'")
    task = path.stem if path.stem in ("mad", "mqar") else "babilong"
    words = [f"sweep={path.stem}", f"task={task}"]
    _, hydra_config = compose(words)
    assert hydra_config.mode == RunMode.MULTIRUN
    lists = [f"{key}={value}" for key, value in hydra_config.sweeper.params.items()]
    for override in parse_overrides(lists):
        if not override.is_sweep_override() or not override.is_discrete_sweep():
            continue
        for value in override.sweep_string_iterator():
            chosen = f"{override.key_or_group}={value}"
            settings = compose_settings([*words, chosen])
            assert settings.validation_samples > 0 or task in (
                "mad",
                "mqar",
            )  # which have their own


def test_several_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert check([]) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="^torchrun started 2 processes"):
        check([])
