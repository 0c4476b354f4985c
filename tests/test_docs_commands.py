"""Every command of README.md and docs/ is checked, and one of each kind is run."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from docs_pages import PAGES, REPOSITORY, Command, WrongCommand, check, commands, prose, spans
from in_process import atlas_bench, no_plots
from walkthroughs import followed, new_files  # noqa: F401

from atlas_bench.cli import run as cli
from atlas_bench.cli import sweep as sweep_cli
from atlas_bench.cli.command import read_command
from atlas_bench.cli.compose import compose_settings
from atlas_bench.cli.experiments import experiment_names
from atlas_bench.cli.report import main as report
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.registry import TASKS

RUN, SWEEP = "outputs/DATE/TIME-NAME", "outputs/DATE/TIME-sweep"
# What is checked but never run: what it needs is not there, or not everywhere.
NOT_RUN = {
    r"hardware=slurm( |$)": "Slurm",
    r"ray\.init\.address=auto": "a Ray that runs already",
    r"hardware=(ray|slurm_local|local_processes)|sweep=optuna": "[sweep]; sweeps/test_launchers.py",
    r"(data|source)=hub|text=(pg19|fineweb_edu)|logger\.mode=online": "a network",
    r"model=hf": "weights of the hub",
    r"experiment=(table[23568]_\w+) budget=paper(?!.*--dry-run)": "a network and a tokenizer",
    r"^(pip|make|pytest|python)": "no program of ours",
    r"^lm_eval": "the hub's data; tests/evaluation/test_lm_eval_model.py runs it on fixtures",
}
TINY = [
    "hardware.device=cpu", "hardware.threads=1", "logger=none", "training.tokens=128",
    "training.batch_tokens=64", "training.min_sequences=1", "scale.width=16", "scale.heads=2",
    "scale.memory_heads=2", "model.match=none",
]  # fmt: skip


def of_pages() -> list[Command]:
    """Every command once, under the first place that has it."""
    found: dict[tuple, Command] = {}
    for page in PAGES:
        for command in commands(page.read_text(encoding="utf-8"), page.name):
            found.setdefault((command.words, command.said), command)
    return list(found.values())


COMMANDS = of_pages()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, followed: Path) -> Path:  # noqa: F811
    """The run, sweep, text and tokenizer that the pages name, by the names that they have there."""
    folder = tmp_path_factory.mktemp("files")
    run = folder / "NAME"
    run.mkdir()
    settings = compose_settings(["model=titans"])
    (run / "config.json").write_text(json.dumps(asdict(settings)))
    (folder / "PATH").mkdir()
    for number in range(16):  # every eighth is held out
        text = f"In the beginning of book {number} was the word. " * 200
        (folder / "PATH" / f"book{number}.txt").write_text(text)
    (folder / "PATH" / "tokenizer.json").touch()
    return folder


@pytest.fixture
def clone(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own in which those names are found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/DATE").mkdir(parents=True)
    for name in (RUN, "RUN"):
        (tmp_path / name).symlink_to(files / "NAME")
    (tmp_path / "PATH").symlink_to(files / "PATH")
    sweep = tmp_path / SWEEP
    sweep.mkdir()
    (sweep / "sweep.json").touch()
    (sweep / "0-NAME").symlink_to(files / "NAME")
    # Whether this machine has the GPU that a model needs is no fault of the command.
    monkeypatch.setattr(cli, "check_machine", lambda settings: None)
    return tmp_path


def check_all(page: str) -> None:
    for command in commands(page, "page"):
        check(command)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_names_what_there_is(command: Command, clone: Path) -> None:
    check(command)


@pytest.mark.parametrize(
    "line",
    [
        "atlas-bench model=atlsa",
        "atlas-bench -m model=titans,atlsa",
        "atlas-bench -m seed=0,1 scale=tiny,tinny",
        "atlas-bench -m task=mad task.change=vocab_32,vocab_33",
        "atlas-bench +experiment=comparision -m",
        "atlas-bench sweep=learning_rte",
        "atlas-bench task.lenghts=[1k]",
        "atlas-bench task=mqar task.lengths=[1k]",
        "atlas-bench training.curriculum.threshhold=0.5",
        "atlas-bench model.memory.window=1 model.memory.update_every=4",
        "atlas-bench --config-print job",
        "atlas-bench mode=eval checkpoint=outputs/DATE/TIME-OTHER",
        "atlas-bench task=lm text=folder text.folder=NOWHERE",
        "atlas-bench 'training.curriculum.stages=[{length:64}]' model=titans,atlas",
        "atlas-bench training.curriculum.stages=[{length:64,noise:0.5}]",
        "atlas-bench-report --tables table3_s_niah outputs/",
        "atlas-bench-report --table table3_niah outputs/",
        "atlas-bench-report results/",
        "atlas-bench-sweep outputs/DATE/TIME-NAME",
        "lm_eval --model atlas_bech --model_args checkpoint=RUN --tasks piqa",
        "lm_eval --model atlas_bench --model_args chekpoint=RUN --tasks piqa",
        "lm_eval --model atlas_bench --model_args checkpoint=RUN --tasks picqa",
        "lm_eval --model atlas_bench --model_args checkpoint=RUN --tasks based_nq",
        "lm_eval --model atlas_bench --model-arguments checkpoint=RUN --tasks piqa",
        "python benchmarks/trainings.py",
        "python benchmarks/training.py --round 2",
        "pytest tests/test_nothing.py",
        "pip install 'atlas-bench[swep]'",
        "make demos",
        "$ atlas-bench model=atlsa\n    atlas-bench: model=atlsa is not one of ... (try atlas)",
        "$ atlas-bench model=atlas\n    atlas-bench: model=atlas is not one of ...",
    ],
)
def test_a_wrong_command_is_found(line: str, clone: Path) -> None:
    page = f"A page with\n\n    {line}\n\nin it.\n"
    with pytest.raises(WrongCommand):
        check_all(page)


def test_commands_are_found_wherever_they_stand() -> None:
    page = (
        "Text `atlas-bench seed=1\nseed=2` text\n\n    atlas-bench -m \\\n      seed=3  # four\n\n"
        "```bash\n$ .venv/bin/atlas-bench seed=5\nseed=6\n```\n"
        "    atlas-bench seed=7;  atlas-bench --help\n\n"
        "    atlas-bench seed=8;  atlas-bench --help\n    model.match=a|b\n"
    )
    found = [" ".join(command.words[1:]) for command in commands(page, "page")]
    assert found == [
        "-m seed=3", "seed=5", "seed=8", "--help", "model.match=a", "model.match=b",
        "seed=1 seed=2",
    ]  # fmt: skip
    assert len(COMMANDS) > 60
    assert {command.words[0] for command in COMMANDS} >= {
        "atlas-bench", "atlas-bench-report", "atlas-bench-sweep", "lm_eval", "python", "pip",
        "make",
    }  # fmt: skip


# keys, choices and files in prose ----------------------------------------------------------------


def known_keys() -> set[str]:
    """Every dotted key of every task, and the groups and keys of the first level."""

    def walk(value: object, prefix: str) -> set[str]:
        found = {prefix} if prefix else set()
        if isinstance(value, dict):
            for key, each in value.items():
                found |= walk(each, f"{prefix}.{key}" if prefix else key)
        return found

    hub = compose_settings(["model=hf", "model.name=x", "mode=eval"])
    found = walk(asdict(replace(hub)), "") | {"sweep", "experiment"}
    for entry in TASKS.values():
        found |= walk(asdict(entry()), "task")
    return found | {each.name for each in fields(RunSettings)}


def wrong_words(text: str, keys: set[str], conf: Path) -> list[str]:
    """Overrides in the inline code of a page whose key or choice there is not."""
    wrong = []
    for span in spans(text):
        words = span.split()
        if not all(re.match(r"\+?[a-z][\w.]*=\S*$", word) for word in words):
            continue
        for word in words:
            key, _, value = word.lstrip("+").partition("=")
            if "." in key and not key.startswith("hydra.") and key not in keys:
                wrong.append(word)
            if (conf / key).is_dir():
                choices = {path.stem for path in (conf / key).glob("*.yaml")} | {"NAME", ""}
                if key == "task":
                    choices |= set(TASKS)
                if key == "experiment":
                    choices |= {*experiment_names(), "NAME/BUDGET"}
                wrong += [each for each in re.split(r"[,|]", value) if each not in choices]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_in_prose_are_keys_and_choices(page: Path, followed: Path) -> None:  # noqa: F811
    assert wrong_words(page.read_text(encoding="utf-8"), known_keys(), followed) == []


def test_a_wrong_override_in_prose_is_found(followed: Path) -> None:  # noqa: F811
    page = "`task.sampels=3` and `hardware=slrum`, `model=atlas|titan` or `scale=170m seed=1`"
    assert wrong_words(page, known_keys(), followed) == ["task.sampels=3", "slrum", "titan"]


def missing_files(text: str) -> list[str]:
    """Files of the repository in the inline code of a page that are not there."""
    roots = [REPOSITORY, REPOSITORY / "atlas_bench"]
    folders = {path.name for root in roots for path in root.iterdir() if path.is_dir()}
    tops = folders - {"build", "outputs"}
    named = []
    for span in spans(text):
        path = span.split("::")[0]
        is_path = re.fullmatch(r"[\w.*-]+(/[\w.*-]*)*", path) and not re.search("[A-Z]{2}", path)
        if not is_path or not (path.endswith("/") or re.search(r"\.(py|md|yaml|toml)$", path)):
            continue
        if "/" in path and path.split("/")[0] in tops:
            named.append((span, any(any(root.glob(path.rstrip("/"))) for root in roots)))
        elif "/" not in path and path.endswith((".py", ".yaml")):
            named.append((span, any((REPOSITORY / "atlas_bench").rglob(path))))
    return [span for span, there in named if not there and span not in new_files()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_in_prose_are_there(page: Path) -> None:
    assert missing_files(page.read_text(encoding="utf-8")) == []


def test_a_missing_file_is_found() -> None:
    page = "`conf/model/atls.yaml` `memory/recurrent.py` `chunkd.py` `conf/sweep/` `tasks/nothing/`"
    assert missing_files(page) == ["conf/model/atls.yaml", "chunkd.py", "tasks/nothing/"]


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links and images of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        path = target.split("#")[0]
        if path and not re.match(r"\w+:", target) and not (page.parent / path).exists():
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert broken_links(page, text) == []
    assert broken_links(page, text + "\n[x](nothing.md) ![y](images/no.png)\n") != []


# running ------------------------------------------------------------------------------------


def documented(line: str) -> list[str]:
    """The words of a command that some page has."""
    (found,) = [each for each in COMMANDS if " ".join(each.words) == line]
    return list(found.words[1:])


def test_one_command_of_each_kind_runs(
    followed: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    mqar = [
        *TINY,
        "task.grid=[{length:32,pairs:2}]",
        "task.test_examples=2",
        "task.train_examples=8",
    ]
    mqar += ["training.epochs=null"]

    train = documented("atlas-bench task=mqar model=deltanet")
    assert atlas_bench(*train, *mqar, f"hydra.run.dir={RUN}") == 0
    assert json.loads(Path(RUN, "record.json").read_text())["model"] == "deltanet"

    evaluate = documented(
        f"atlas-bench mode=eval checkpoint={RUN} task.lengths=[64k] task.samples=4"
    )
    words = [word for word in evaluate if not word.startswith("task.")]
    assert atlas_bench(*words, "task=mqar", *mqar, "hydra.run.dir=outputs/again") == 0
    scores = [json.loads(path.read_text())["scores"] for path in Path().rglob("record.json")]
    assert scores[0][0]["value"] == scores[1][0]["value"]

    capsys.readouterr()
    assert atlas_bench(*documented("atlas-bench mode=describe model=titans_norm")) == 0
    assert "parameters" in capsys.readouterr().out

    sweep = documented(
        "atlas-bench -m task=parity model=deltanet,titans,transformer task.lengths=[64,512]"
    )
    small = [word.replace("512", "65") for word in sweep if "transformer" not in word]
    words = ["model=deltanet,titans", *TINY, "task.samples=2", f"hydra.sweep.dir={SWEEP}"]
    assert atlas_bench(*small, *words) == 0
    assert sweep_cli.main(documented(f"atlas-bench-sweep {SWEEP}")) == 0
    assert "2 of 2 jobs done" in capsys.readouterr().out

    with no_plots():
        assert report(documented("atlas-bench-report outputs/")) == 0
    assert Path("outputs/report/report.html").is_file()


def smallest(settings: RunSettings) -> RunSettings:
    """The same run at smoke size."""
    training = settings.training
    small = {"samples": 1, "limit": 1, "test_examples": 2, "train_examples": 8}
    small |= {"held_out_characters": 2000, "sequences": 1, "length": 64}
    for task in (settings.task, *settings.evaluations.values()):
        for key, value in small.items():
            if hasattr(task, key):
                setattr(task, key, value)
        if getattr(task, "lengths", None):
            task.lengths = task.lengths[:1] if settings.mode == "train_eval" else ["1k"]
        if hasattr(task, "grid"):
            task.grid = [{"length": 32, "pairs": 2}]
    if training.tokens:  # else the task is learnt while it is measured
        training.tokens, training.epochs = 128, None
        training.batch_tokens, training.min_sequences = 64, 1
    settings.hardware.device, settings.hardware.threads = "cpu", 1
    settings.logger.mode = "disabled"
    return settings


def can_run(command: Command) -> bool:
    """Whether a command is one of atlas-bench that starts a run on this machine."""
    line = " ".join(command.words)
    shows = re.search(r"--help|--cfg|--version|mode=describe|resume=", line)
    needs = any(re.search(pattern, line) for pattern in NOT_RUN)
    return command.words[0] == "atlas-bench" and not (shows or needs or command.said)


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMMANDS if can_run(each)], ids=str)
def test_every_command_runs_at_smoke_size(command: Command, clone: Path) -> None:
    """A sweep's first job; a dry run as it stands."""
    from atlas_bench.runs.execute import execute

    if "--dry-run" in command.words:
        assert atlas_bench(*command.words[1:]) == 0
        return
    words = list(command.words[1:])
    if checkpoint := [word for word in words if word.startswith("checkpoint=")]:
        execute(smallest(compose_settings(["model=titans", "mode=train"])), clone / "trained")
        words.remove(checkpoint[0])
        words.append(f"checkpoint={clone / 'trained'}")
    settings = read_command(words).settings
    record = json.loads(execute(smallest(settings), clone / "run").read_text())
    assert record["scores"]
