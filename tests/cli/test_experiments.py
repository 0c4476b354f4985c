"""The papers' tables as experiments: they compose as the papers say, cost it, and run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from presets import NEED_GPU

import atlas_bench.runs.execute
import atlas_bench.runs.show
from atlas_bench.artifacts.metrics import PERPLEXITY, Metric
from atlas_bench.artifacts.records import read_record
from atlas_bench.cli import run as cli
from atlas_bench.cli.command import Command, read_command
from atlas_bench.cli.compose import compose_settings
from atlas_bench.cli.experiments import BUDGETS, experiment_names, with_budget
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.learner import Cost
from atlas_bench.models import accounting
from atlas_bench.models.accounting import account, parameters_of
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.report.published import published_names, published_table
from atlas_bench.runs.estimate import PEAK_FLOPS, UTILISATION, Estimate, as_text, estimate_jobs
from atlas_bench.runs.learners import learner_for
from atlas_bench.tasks.language_modelling import LanguageModellingTask
from atlas_bench.tasks.learnability.online import OPTIMIZERS
from atlas_bench.tasks.learnability.targets import TARGETS
from atlas_bench.tasks.task import MetricValue
from atlas_bench.text.tokenizer import train_tokenizer

# What the papers say of their language models: parameters, tokens, peak rate (2505.23735, Table 7).
PAPER = {
    "table2_760m": (760e6, 30e9, 1.25e-3, "commonsense"),
    "table2_1_3b": (1.3e9, 100e9, 7e-4, "commonsense"),
    "table8_340m": (340e6, 15e9, 1.5e-3, "commonsense"),
    "table3_s_niah": (1.3e9, 100e9, 7e-4, "s_niah"),
    "table5_recall": (1.3e9, 100e9, 7e-4, "recall"),
    "table6_ablation": (760e6, 30e9, 1.25e-3, "commonsense"),
    "fig_context": (340e6, 15e9, 1.5e-3, None),
}
OTHER_TOKENS = {  # a job's, the same for every model
    "fig_babilong": (34 + 3 * 32) * 512 * 64 * 10_000,  # segments of all stages x batch x steps
    "fig_mqar": 64 * 100_000 * 512,
}


def read(name: str, budget: str, *words: str) -> Command:
    return read_command(["-m", f"+experiment={name}", f"budget={budget}", *words])


def swept(command: Command, key: str) -> list[str]:
    (found,) = [each for each in command.overrides if each.key_or_group == key]
    return [str(value) for value in found.sweep_string_iterator()]


@pytest.mark.parametrize("name", experiment_names())
def test_both_budgets_compose(name: str) -> None:
    for budget in BUDGETS:
        command = read(name, budget)
        settings = command.settings
        assert command.hydra.sweeper.params, "a table has more than one row"
        assert settings.scale.name in ("tiny", "mad", "zoology_32", "none") or budget == "paper"
        if name in published_names() and name not in ("fig_babilong", "fig_learnability"):
            presets = {row.preset for row in published_table(name).rows} - {""}
            left_out = set() if budget == "paper" else set(NEED_GPU)
            assert set(swept(command, "model")) == presets - left_out


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_budget(name: str) -> None:
    parameters, tokens, rate, evaluation = PAPER[name]
    settings = read(name, "paper").settings
    training = settings.training
    assert (training.tokens, training.learning_rate) == (tokens, rate)
    assert training.batch_tokens == 2**19
    assert pytest.approx(1e9, rel=0.001) == 1907 * 2**19
    assert (training.warmup_steps, training.clip, training.weight_decay) == (1907, 1.0, 0.1)
    if name != "fig_context":  # whose lengths are swept over
        assert [stage.length for stage in training.curriculum.stages] == [4096]
    assert (settings.text.source, settings.text.vocab_size) == ("stream", 32000)
    assert "fineweb" in settings.text.dataset.lower()
    assert settings.scale.attention_window == 2048
    assert list(settings.evaluations) == ([evaluation] if evaluation else [])
    for task in settings.evaluations.values():
        assert getattr(task, "data", "hub") == "hub"
    if name == "table3_s_niah":
        (task,) = settings.evaluations.values()
        assert (task.samples, task.trained_on) == (500, "text")
        assert task.lengths == ["2k", "4k", "8k", "16k"]


@pytest.mark.parametrize("name", OTHER_TOKENS)
def test_the_tokens_of_other_protocols(name: str) -> None:
    (estimate,) = estimate_jobs([read(name, "paper").settings])
    assert estimate.cost.tokens == OTHER_TOKENS[name]


def test_the_learnability_study_is_the_papers() -> None:
    command = read("fig_learnability", "paper")
    sizes = [swept(command, f"task.learner.{key}") for key in ("layers", "expansion")]
    assert sizes == [["2", "3"], ["1", "4"]]
    assert set(swept(command, "task.target")) == set(TARGETS)
    first, *_, last = command.jobs()
    assert len(command.jobs()) == 4 * len(TARGETS) * 3 * 4  # rates
    optimizers = [each.split(":")[1].split(",")[0] for each in swept(command, "task.learner")]
    assert set(optimizers) == set(OPTIMIZERS)
    assert all(optimizers.count(each) == 4 for each in OPTIMIZERS)
    task = compose_settings(last).task
    assert (task.dimension, task.window) == (256, 512)
    assert (task.learner.layers, task.learner.expansion) == (3, 4)
    assert (task.learner.optimizer, task.learner.learning_rate) == ("sgd", 0.1)
    (estimate,) = estimate_jobs([compose_settings(first)])
    assert (estimate.cost.parameters, estimate.cost.tokens) == (3 * 256**2, 8192)
    assert estimate.gpu_hours is None
    assert "? mlp_2x1_adam: not counted: one step a token" in as_text([estimate, estimate])
    assert estimate.evaluations == ["learnability low_rank"]


@pytest.mark.parametrize(
    ("scale", "parameters", "tables"),
    [
        ("170m", 170e6, ["fig_babilong"]),
        ("340m", 340e6, ["table8_340m", "fig_context"]),
        ("760m", 760e6, ["table2_760m", "table6_ablation"]),
        ("1.3b", 1.3e9, ["table2_1_3b", "table3_s_niah", "table5_recall"]),
    ],
)
def test_every_model_is_as_large_as_the_papers(
    scale: str, parameters: float, tables: list[str]
) -> None:
    """Within 5 %; layers are alike, so that one turn of the mixers says all."""
    models = set()
    for table in tables:
        command = read(table, "paper")
        assert command.config.scale.name == scale
        listed = table != "fig_context"
        models |= set(swept(command, "model") if listed else [command.config.model.name])
    sizes = {}
    for model in models - set(NEED_GPU):
        settings = compose_settings([f"model={model}", f"scale={scale}"])
        sizes[model] = parameters_of(settings.model, settings.scale, vocab_size=32000)
    assert sizes == pytest.approx(dict.fromkeys(sizes, parameters), rel=0.05)


# --dry-run ---------------------------------------------------------------------------------


def test_a_dry_run_says_what_every_job_costs_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Trust C20."""
    monkeypatch.chdir(tmp_path)
    words = ["+experiment=table5_recall", "budget=paper", "model=transformer,deltanet"]
    monkeypatch.setattr(sys, "argv", ["atlas-bench", "-m", "--dry-run", *words, "scale=tiny"])
    cli.main()  # exits with 0
    assert list(tmp_path.iterdir()) == []
    head, *jobs, total = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in jobs] == [
        ["0", "transformer", "tiny", "0"],
        ["1", "deltanet", "tiny", "0"],
    ]
    assert all("100,000,000,000" in line for line in jobs)
    assert all(line.endswith("lm 4k; recall 6 subtasks") for line in jobs)
    assert "parameters" in head
    assert "GPU-hours" in head
    assert total.startswith("2 jobs, ")
    assert "assumption" in total


def test_hours_are_operations_by_speed() -> None:
    settings = read("table5_recall", "paper").settings
    cost = Cost(1000, 10, PEAK_FLOPS * UTILISATION * 3.6)
    estimate = Estimate(settings, learner_for(settings), cost)
    assert estimate.gpu_hours == pytest.approx(1.0)
    assert "1.00 GPU-hours" in as_text([estimate])


def test_c20_layers_alike_need_not_all_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["model=transformer", "model.mixers=[attention,neural_memory]", "scale.layers=4"]
    settings = compose_settings(words)
    vocab_size, tokens = settings.text.vocab_size, accounting.ESTIMATED_TOKENS
    whole = account(settings.model, settings.scale, vocab_size=vocab_size, tokens=tokens)
    built: list[int] = []

    def build(model: ModelSettings, scale: ScaleSettings, **options: Any) -> LanguageModel:
        built.append(scale.layers)
        return build_model(model, scale, **options)

    monkeypatch.setattr(accounting, "build_model", build)
    (estimate,) = estimate_jobs([settings])
    assert set(built) == {2}
    assert estimate.cost.parameters == whole.total
    assert estimate.cost.flops_per_token == pytest.approx(whole.training_operations, rel=1e-9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="counted where there is a GPU")
def test_a_model_that_cannot_be_counted_here_says_why() -> None:
    settings = read("table2_1_3b", "paper", "model=mamba2").settings
    (found,) = estimate_jobs([settings])
    assert found.gpu_hours is None
    assert found.cost.parameters == pytest.approx(1.3e9, rel=0.05)
    assert "? mamba2: not counted: it runs on flash-linear-attention's kernels, which need" in (
        as_text([found])
    )


def test_c20_describe_says_which_vocabulary_it_counted(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(512).save(tmp_path)
    for words, said in (
        ([], "1,024 tokens (text.vocab_size)"),
        (["text.vocab_size=32000"], "32,000 tokens (text.vocab_size)"),
        (["task=mqar", "training=mqar"], "8,192 tokens (task=mqar)"),
        ([f"text.tokenizer={tokenizer}"], f"512 tokens (text.tokenizer={tokenizer})"),
    ):
        text = learner_for(compose_settings(["model=transformer", *words])).describe()
        assert text.endswith(f"with a vocabulary of {said}")


# the command -------------------------------------------------------------------------------


def test_a_budget_is_a_word_of_experiments() -> None:
    assert with_budget(["-m", "+experiment=fig_mqar", "budget=paper", "seed=1"]) == [
        "-m",
        "+experiment=fig_mqar/paper",
        "seed=1",
    ]
    assert with_budget(["+experiment=fig_mqar"]) == ["+experiment=fig_mqar/laptop"]
    # as a sweep's index has it
    assert with_budget(["+experiment=fig_mqar/paper"]) == ["+experiment=fig_mqar/paper"]
    assert with_budget(["model=atlas"]) == ["model=atlas"]
    for words, said in (
        (["budget=paper"], r"^budget=paper belongs to an experiment; add \+experiment=NAME"),
        (["+experiment=fig_mqr"], r"did you mean fig_mqar\?"),
        (["+experiment=fig_mqar", "budget=papr"], r"^budget=papr is not one of laptop, paper"),
        (["+experiment=fig_mqar,fig_context"], "is not one of"),
        (["experiment=fig_mqar"], r"write a \+ before it"),
    ):
        with pytest.raises(ConfigError, match=said):
            with_budget(words)


# runs --------------------------------------------------------------------------------------

SMALL = [
    "logger=none", "hardware.device=cpu", "hardware.threads=1", "training.tokens=512",
    "training.batch_tokens=256", "training.min_sequences=2", "model=deltanet",
]  # fmt: skip
FEW = {
    "table2_760m": ["evaluations.commonsense.limit=1", "task.held_out_characters=4000"],
    "table5_recall": ["evaluations.recall.limit=1", "task.held_out_characters=4000"],
    "table3_s_niah": ["task.samples=1", "task.lengths=[2k]"],
    "table4_mad": ["task.train_examples=64", "task.test_examples=8", "training.epochs=null"],
    "table6_ablation": ["task.samples=1", "task.lengths=[0k]"],
    "fig_babilong": ["task.samples=1", "task.lengths=[0k]"],
    "fig_mqar": ["task.train_examples=64", "task.test_examples=8", "training.epochs=null"],
    "fig_context": ["model=omeganet", "task.held_out_characters=4000"],
}
# It has no model and no training, so none of SMALL.
ONLINE = ["logger=none", "hardware.device=cpu", "task.length=100", "task.sequences=1"]
# All else is that of table2_760m but for the list of models, as a test above says.
ALIKE = {"table2_1_3b", "table8_340m"}


@pytest.fixture
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_bench.runs.show, "draw_plots", lambda *arguments, **options: {})


@pytest.mark.parametrize("name", FEW)
@pytest.mark.usefixtures("_no_plots")
def test_each_runs_at_a_laptops_budget(name: str, tmp_path: Path) -> None:
    assert set(FEW) | ALIKE | {"fig_learnability"} == set(experiment_names())
    words = with_budget([f"+experiment={name}", *SMALL, *FEW[name]])
    settings = compose_settings(words)
    atlas_bench.runs.execute.execute(settings, tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["scores"]
    assert record["train_tokens"] >= 512
    for evaluation in settings.evaluations:
        path = tmp_path / "evaluations" / evaluation / "record.json"
        asked = json.loads(path.read_text())
        assert asked["scores"]
        assert (asked["task"], asked["train_tokens"]) == (evaluation, record["train_tokens"])
        assert asked["tokenizer"] == record["tokenizer"]
        assert asked["protocol"]["trained"] is False


@pytest.mark.usefixtures("_no_plots")
def test_the_learnability_study_runs_at_a_laptops_budget(tmp_path: Path) -> None:
    command = read("fig_learnability", "laptop", *ONLINE)
    last = command.jobs()[-1]
    atlas_bench.runs.execute.execute(compose_settings(last), tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["model"], record["scale"]) == ("mlp_3x4_sgd", "d32")
    assert record["name"] == "window_attention_mlp-3x4-sgd"
    assert record["train_tokens"] == 100


@pytest.mark.usefixtures("_no_plots")
def test_a_run_without_all_evaluations_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two of them it has no record; gone on with, it asks only what is missing."""
    words = ["task=lm", "+task@evaluations.one=babilong", "+task@evaluations.two=babilong"]
    few = [
        f"evaluations.{each}.{key}"
        for each in ("one", "two")
        for key in ("samples=1", "lengths=[0k]")
    ]
    words += [*few, *SMALL, "task.lengths=[1k]", "task.held_out_characters=4000"]
    words.append("validation_samples=1")
    settings = compose_settings(words)
    whole = atlas_bench.runs.execute.evaluate

    def second_fails(context, task):
        if context.folder.path.name == "two":
            raise ConfigError("the data is missing")
        return whole(context, task)

    with monkeypatch.context() as patch:
        patch.setattr(atlas_bench.runs.execute, "evaluate", second_fails)
        with pytest.raises(ConfigError, match="the data is missing"):
            atlas_bench.runs.execute.execute(settings, tmp_path)
    first = tmp_path / "evaluations" / "one" / "record.json"
    assert first.is_file()
    assert not (tmp_path / "record.json").exists()
    before = first.stat().st_mtime_ns
    settings.resume = str(tmp_path)
    atlas_bench.runs.execute.execute(settings, tmp_path)
    assert first.stat().st_mtime_ns == before
    second = tmp_path / "evaluations" / "two" / "record.json"
    run, *asked = (
        json.loads(path.read_text()) for path in (tmp_path / "record.json", first, second)
    )
    assert run["config"]["evaluations"]
    # Settings of the one model are chosen by its own validation, whatever it is asked.
    values = [[score["value"] for score in each["validation"]] for each in (run, *asked)]
    assert run["validation"][0]["metric"] == "perplexity"
    assert values == [values[0]] * 3
    # The task that is asked has other metrics; lower perplexity is still better.
    chosen = [read_record(path) for path in (tmp_path / "record.json", first, second)]
    assert [each.metric("perplexity") for each in chosen] == [PERPLEXITY] * 3
    assert {metric["name"] for metric in asked[0]["metrics"]} > {"exact_match", "perplexity"}
    assert chosen[1].validation_score == chosen[0].validation_score < 0


@pytest.mark.usefixtures("_no_plots")
def test_an_evaluation_is_chosen_by_the_metric_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name alone does not tell the direction."""
    metric = Metric("surprise", unit="nats", higher_is_better=False, interval=None)
    monkeypatch.setattr(LanguageModellingTask, "metrics", (metric, *LanguageModellingTask.metrics))
    judge = LanguageModellingTask.judge

    def surprised(task, cell, predictions):
        loss = MetricValue(cell, metric, float(predictions.loss.mean()), len(predictions.loss))
        return [loss, *judge(task, cell, predictions)]

    monkeypatch.setattr(LanguageModellingTask, "judge", surprised)
    words = ["task=lm", "+task@evaluations.one=babilong", "evaluations.one.samples=1"]
    words += ["evaluations.one.lengths=[0k]", "task.lengths=[1k]", "task.held_out_characters=4000"]
    atlas_bench.runs.execute.execute(
        compose_settings([*words, *SMALL, "validation_samples=1"]), tmp_path
    )
    run, asked = (
        read_record(folder / "record.json") for folder in (tmp_path, tmp_path / "evaluations/one")
    )
    assert asked.metric("surprise") == metric
    assert asked.validation_score == run.validation_score < 0


def test_a_mistake_in_an_evaluation_names_it() -> None:
    words = ["+task@evaluations.more=babilong", "evaluations.more.samples=0"]
    with pytest.raises(ConfigError, match=r"^evaluations\.more\.samples=0 must be at least 1"):
        compose_settings(words)
