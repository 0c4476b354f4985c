"""The lm-eval model: loaded from a run alone, its text side, and how lm-eval's command finds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lm_eval.utils import make_table

from atlas_bench.artifacts.checkpoint import CheckpointError, find_checkpoint
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.evaluation.lm_eval import plugin as lm_eval_plugin
from atlas_bench.evaluation.lm_eval.model import AtlasBenchLM
from atlas_bench.evaluation.loading import load_run, run_tokenizer
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.text.tokenizer import train_tokenizer

REPOSITORY = Path(__file__).parents[3]
TEXTS = ["The first keeper of the lighthouse was Edda Storm.", "And the evening and the morning."]


@pytest.fixture(scope="module")
def lm(run_folder: Path) -> AtlasBenchLM:
    return exact(AtlasBenchLM(run_folder, device="cpu"))


def exact(lm: AtlasBenchLM) -> AtlasBenchLM:
    """In float64, where two ways to one number agree on every processor."""
    lm.model.double()
    return lm


def request(*arguments: object) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def token_logs(lm: AtlasBenchLM, ids: list[int]) -> torch.Tensor:
    """ln p of every token but the first, by one forward pass."""
    with torch.no_grad():
        hidden, _ = lm.model(torch.tensor([ids]))
        logs = lm.model.logits(hidden)[0, :-1].log_softmax(-1)
    return logs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_a_continuation_is_scored_after_its_context(lm: AtlasBenchLM) -> None:
    context, continuation = TEXTS[0], " He stayed long."
    ((value, _),) = lm.loglikelihood([request(context, continuation)])
    whole = lm.tok_encode(context + continuation)
    kept = len(lm.tok_encode(context))
    assert value == pytest.approx(float(token_logs(lm, whole)[kept - 1 :].sum()), rel=1e-9)
    ((alone, _),) = lm.loglikelihood([request("", continuation)])  # after the end token
    ids = [lm.eot_token_id, *lm.tok_encode(continuation)]
    assert alone == pytest.approx(float(token_logs(lm, ids).sum()), rel=1e-9)


def test_a_document_is_scored_whole_or_in_windows(lm: AtlasBenchLM, run_folder: Path) -> None:
    text = " ".join(TEXTS * 3)
    ids = [lm.eot_token_id, *lm.tok_encode(text)]
    (value, empty) = lm.loglikelihood_rolling([request(text), request("")])
    assert value == pytest.approx(float(token_logs(lm, ids).sum()), rel=1e-9)
    assert empty == 0.0
    short = exact(AtlasBenchLM(run_folder, device="cpu", max_length=16))
    (windows,) = short.loglikelihood_rolling([request(text)])
    expected, done = 0.0, 1
    while done < len(ids):  # 16 tokens a window; the last sees 16 before its end
        end = min(done + 16, len(ids))
        seen = ids[max(0, end - 17) : end]
        expected += float(token_logs(lm, seen)[-(end - done) :].sum())
        done = end
    assert windows == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"checkpoint": "/nope"}, {}, "/nope is not a checkpoint; give a run's folder"),
        ({}, {}, "--model_args needs checkpoint=PATH"),
        ({"chekpoint": "x"}, {}, "chekpoint is not one of checkpoint, .*did you mean checkpoint"),
        ({"checkpoint": "x"}, {"batch_size": "many"}, "--batch_size many must be auto or a number"),
        ({"checkpoint": "x"}, {"batch_size": 0}, "--batch_size 0 must be auto or a number"),
    ],
)
def test_wrong_arguments_of_lm_evals_command_are_one_sentence(
    arguments: dict, options: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trust C19."""
    with pytest.raises(SystemExit) as stopped:
        AtlasBenchLM.create_from_arg_obj(arguments, options)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert re.match(f"lm_eval: .*{message}", said)
    assert said.count("\n") == 1


def test_lm_evals_own_arguments_are_accepted(run_folder: Path) -> None:
    options = {"batch_size": "auto:4", "max_batch_size": 3, "device": "cpu"}
    arguments = f"checkpoint={run_folder},trust_remote_code=True"
    assert AtlasBenchLM.create_from_arg_string(arguments, options).reader.batch_rows == 3


def test_lm_evals_table_has_its_headings_with_the_pinned_packages() -> None:
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().split())
    if version("pytablewriter") != pins["pytablewriter"]:
        pytest.skip("another pytablewriter than that of constraints.txt is installed")
    results = {"results": {"a": {"alias": "a", "acc,none": 0.5}}, "versions": {}, "n-shot": {}}
    assert make_table(results | {"higher_is_better": {}}).startswith("|Tasks|")


def test_the_end_of_a_context_counts_where_it_is_too_long(run_folder: Path) -> None:
    lm = exact(AtlasBenchLM(run_folder, device="cpu", max_length=8))
    context, continuation = TEXTS[0] * 2, " Storm"
    ((value, _),) = lm.loglikelihood([request(context, continuation)])
    whole = lm.tok_encode(context + continuation)
    count = len(whole) - len(lm.tok_encode(context))
    assert value == pytest.approx(float(token_logs(lm, whole[-9:])[-count:].sum()), rel=1e-9)
    with pytest.raises(ValueError, match="max_length=8 is shorter than a continuation"):
        lm.loglikelihood([request(context, TEXTS[1] * 2)])


def test_generation_ends_where_the_task_says(lm: AtlasBenchLM) -> None:
    long = {"until": ["<none>"], "max_gen_toks": 12}
    (whole,) = lm.generate_until([request(TEXTS[0], long)])
    ids = lm.tok_encode(TEXTS[0])
    for _ in range(12):
        with torch.no_grad():
            hidden, _ = lm.model(torch.tensor([ids]))
        ids.append(int(lm.model.logits(hidden[0, -1]).argmax()))
    assert whole == lm.own_tokenizer.decode(ids[-12:])
    stop = whole[len(whole) // 2 :][:3]
    short, few = lm.generate_until(
        [
            request(TEXTS[0], {"until": stop, "max_gen_toks": 12}),
            request(TEXTS[0], {"until": [], "max_gen_toks": 2}),
        ]
    )
    assert short == whole[: whole.index(stop)]
    assert few == lm.own_tokenizer.decode(ids[-12:-10])
    with pytest.raises(ValueError, match="decodes greedily"):
        lm.generate_until([request(TEXTS[0], {"do_sample": True, "temperature": 1.0})])


def test_batch_size_is_lm_evals(run_folder: Path) -> None:
    made = AtlasBenchLM.create_from_arg_string(f"checkpoint={run_folder}", {"batch_size": "3"})
    assert made.reader.batch_rows == 3
    assert AtlasBenchLM(run_folder, batch_size="auto").reader.batch_rows is None


# loading -----------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_runs(run_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    assert run_tokenizer(folder).fingerprint == shared_tokenizer().fingerprint
    other = train_tokenizer(900)
    other.save(folder)
    paths = [folder, *(folder / name for name in ("checkpoints", "checkpoints/best"))]
    for path in (*paths, find_checkpoint(folder)):
        assert run_tokenizer(path).fingerprint == other.fingerprint
    with pytest.raises(CheckpointError, match="does not fit the configured model"):
        load_run(folder)


def test_what_is_missing_is_said(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_run(tmp_path)
    step = tmp_path / "step"
    step.mkdir()
    source = find_checkpoint(run_folder) / "model.safetensors"
    (step / "model.safetensors").write_bytes(source.read_bytes())
    with pytest.raises(CheckpointError, match=r"no config\.json above it"):
        load_run(step)
    (step / "config.json").write_text('{"model": {"nme": 1}, "scale": {}, "text": {}}')
    with pytest.raises(ConfigError, match=r"config\.json: model\.nme is not a key of the config"):
        load_run(step)
    (step / "config.json").write_text('{"model":')
    with pytest.raises(ConfigError, match=r"config\.json is not valid JSON"):
        load_run(step)


# lm-eval's own command line ------------------------------------------------------------------


def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process in which this source tree is installed with its entry points."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    info = tmp_path / "atlas_bench_of_the_tests-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: atlas-bench-of-the-tests\nVersion: 1\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    paths = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_lm_eval_knows_the_name_without_being_told(tmp_path: Path) -> None:
    code = (
        "import lm_eval.evaluator, torch; from lm_eval.api.registry import get_model; "
        "print(get_model('atlas_bench').__module__, get_model('dummy').__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.stdout.split() == ["atlas_bench.evaluation.lm_eval.model", "DummyLM"], done.stderr


def test_other_programs_than_lm_eval_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    lm_eval_plugin.register()
    assert "lm_eval" not in sys.modules


@pytest.mark.slow
def test_lm_evals_command_line_evaluates_a_run(run_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "run", "--model", "atlas_bench", "--model_args",
            f"checkpoint={run_folder}", "--tasks", "piqa,wikitext,based_nq", "--include_path",
            str(folder_of("tasks")), "--batch_size", "auto",
        ],
        env=environment(tmp_path), cwd=folder_of("tasks") / "fixtures", capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for task in ("piqa", "wikitext", "based_nq"):
        assert re.search(rf"^\|{task} *\|", done.stdout, re.MULTILINE), done.stdout
