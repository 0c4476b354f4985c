"""Learnability through the same command as every task: recorded, validated, stopped, reported."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_bench.artifacts.records import read_record
from atlas_bench.artifacts.schema import Record
from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.report.assemble import beside_paper, comparing_runs
from atlas_bench.report.render import render
from atlas_bench.report.selection import best_settings
from atlas_bench.report.tables import Table
from atlas_bench.runs import show
from atlas_bench.runs.estimate import describe
from atlas_bench.runs.execute import Stopped, execute
from atlas_bench.runs.settings import RunSettings
from atlas_bench.training.errors import TrainingError
from atlas_bench.training.online import OnlineTraining

SMALL = [
    "task=learnability", "task.dimension=8", "task.length=100", "task.sequences=2", "task.rank=2",
    "task.learner.learning_rate=0.01", "hardware.device=cpu", "hardware.threads=1", "logger=none",
]  # fmt: skip


def settings(*overrides: str) -> RunSettings:
    return compose_settings([*SMALL, *overrides])


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "draw_plots", lambda *arguments, **options: {})


def run(folder: Path, *overrides: str) -> Record:
    return read_record(execute(settings(*overrides), folder))


def test_a_run_leaves_what_every_run_leaves(tmp_path: Path) -> None:
    found = run(tmp_path, "task.learner.optimizer=sgd", "task.learner.expansion=2")
    assert (found.model, found.scale, found.task) == ("mlp_2x2_sgd", "d8", "learnability")
    assert found.parameters == 8 * 16 + 16 * 16 + 16 * 8
    assert found.state_bytes == 4 * found.parameters  # plain gradients keep nothing else
    assert (found.train_tokens, found.seed) == (100, 0)
    assert found.protocol["loss"].startswith("|M(i) - o|^2 / |o|^2")
    assert found.config["model"]["name"] == "none"
    assert [score.length_name for score in found.scores] == ["0-63", "64-99", "100", "100"]
    assert {score.samples for score in found.scores} == {2}
    assert all(score.tokens_per_second > 0 for score in found.scores)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == [16, 32, 48, 64, 80, 96, 100]
    first = sum(line["loss"] for line in lines[:4]) / 4
    assert found.scores[0].value == pytest.approx(first, rel=1e-5)


def markdown(table: Table) -> str:
    return render("tables.md", tables=[table])


def test_a_rate_is_chosen_by_other_sequences(tmp_path: Path) -> None:
    records = [
        run(tmp_path / rate, "validation_samples=3", f"task.learner.learning_rate={rate}")
        for rate in ("0.0001", "0.01")
    ]
    for record in records:
        assert {score.samples for score in record.validation} == {3}
        tested = {score.length_name: score.value for score in record.scores}
        assert all(tested[score.length_name] != score.value for score in record.validation[:2])
    (choice,) = best_settings(records)
    assert (choice.settings, choice.points) == ({"task.learner.learning_rate": 0.01}, 2)
    first, _ = (markdown(table) for table in beside_paper(records, "fig_learnability").shown)
    rows = [line for line in first.splitlines() if ", ours" in line]
    assert [f"{records[1].scores[2].value:.3f}" in row for row in rows] == [True]
    other = replace(records[0], model="mlp_2x1_sgd")
    assert len(best_settings([*records, other])) == 2


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedAtToken30(OnlineTraining):
        def _step(self) -> None:
            super()._step()
            if self.tokens == 30:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = run(tmp_path / "whole")
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("atlas_bench.runs.learners.online.OnlineTraining", StoppedAtToken30)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            run(cut)
    assert not (cut / "record.json").exists()
    assert (cut / "checkpoints" / "last.json").is_file()
    again = run(cut, "resume=true")
    assert [score.value for score in again.scores] == [score.value for score in whole.scores]
    assert (cut / "metrics.jsonl").read_text().count("\n") == 7


def test_the_report_has_targets_side_by_side(tmp_path: Path) -> None:
    targets = ("low_rank", "window_attention_mlp")
    records = [run(tmp_path / target, f"task.target={target}") for target in targets]
    first, last = (markdown(table) for table in beside_paper(records, "fig_learnability").shown)
    (row,) = [line for line in first.splitlines() if line.startswith("| mlp_2x1_adam d8, ours")]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    values = [f"{record.scores[2].value:.3f}≠" for record in records]
    assert cells == [values[0], "–", "–", "–", values[1]]
    assert "curves without numbers" in last
    report = comparing_runs(records, {}, tmp_path / "report")
    table = report.texts["table.md"]
    assert "[1]" not in table  # nothing to tell apart: a table has one of them only
    assert "0-63" in table
    assert {"accuracy.png", "accuracy.svg"} <= set(report.figures)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=atlas"], "^model=atlas does not apply to task=learnability"),
        (["model.memory.window=3"], r"^model\.memory\.window=3 does not apply to"),
        (["scale=340m"], "^scale=340m does not apply to task=learnability.*leave scale out"),
        (["training.tokens=512"], r"^training\.tokens=512 does not apply to.*leave training out"),
        (["mode=eval", "checkpoint=x"], "^mode=eval: task=learnability is learnt while"),
        (["mode=train"], "use mode=train_eval"),
        (["checkpoint=x"], "^checkpoint=x does not apply to"),
        (["hardware.precision=bfloat16"], r"^hardware\.precision=bfloat16 does not apply to"),
        (["+task@evaluations.more=babilong"], "^evaluations=more does not apply to"),
        (["task=babilong", "+task@evaluations.x=learnability"], r"^evaluations\.x: task=learnab"),
    ],
)
def test_what_has_no_part_in_it_is_refused(overrides: list[str], said: str) -> None:
    mine = SMALL if "task=babilong" not in overrides else SMALL[-3:]
    with pytest.raises(ConfigError, match=said):
        compose_settings([*mine, *overrides])


def test_a_rate_that_is_too_high_fails_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lower task\.learner\.learning_rate=1000"):
        run(tmp_path, "task.learner.optimizer=sgd", "task.learner.learning_rate=1000")


def test_it_is_described() -> None:
    assert describe(settings("mode=describe")) == (
        "mlp_2x1_adam at d8: 192 parameters\n  state of one sequence in float32, bytes: 2,304"
    )
