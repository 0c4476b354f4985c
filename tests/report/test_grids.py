"""Of a grid of training settings the best point by validation alone gets into a table."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean

import pytest

from atlas_bench.artifacts.records import write_record
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.cli.report import main
from atlas_bench.report.comparison import Comparison, compare
from atlas_bench.report.comparison_tables import comparison_tables
from atlas_bench.report.published import published_table
from atlas_bench.report.selection import find_grids
from atlas_bench.report.tables import score_tables
from atlas_bench.tasks.mad.cases import SUBTASKS, changes

MakeRun = Callable[..., Record]


@pytest.fixture
def run(make_record: Callable[..., Record]) -> MakeRun:
    def make(
        subtask: str = "compression", change: str = "baseline", *, rate: float = 1e-3,
        seed: int = 0, tested: float = 0.5, validated: float | None = None, **training: object,
    ) -> Record:  # fmt: skip
        name = subtask if change == "baseline" else f"{subtask} {change}"
        score = Score(name, 128, "128", "macro_accuracy", tested, 1280)
        validation = Score(name, 128, "128", "macro_accuracy", validated or 0.0, 64)
        config = {
            "seed": seed,
            "model": {"name": "atlas"},
            "task": {"name": "mad", "subtask": subtask, "change": change},
            "training": {"learning_rate": rate, "weight_decay": 0.1, **training},
        }
        return make_record(
            seed=seed, task="mad", scores=[score], config=config,
            validation=[] if validated is None else [validation],
        )  # fmt: skip

    return make


def table4(records: Iterable[Record]) -> Comparison:
    return compare(published_table("table4_mad"), records)


def notes_of(comparison: Comparison) -> list[str]:
    return [note for table in comparison_tables(comparison) for note in table.notes]


# choosing ---------------------------------------------------------------------------------------


def test_validation_chooses_for_each_cell_and_the_cells_are_one_row(run: MakeRun) -> None:
    records = [
        run(rate=rate, seed=seed, validated=validated, tested=1 - validated)
        for rate, means in ((1e-3, (0.9, 0.5)), (2e-3, (0.6, 0.7)))  # 0.7 and 0.65
        for seed, validated in enumerate(means)
    ]
    records.append(run(rate=4e-3, validated=1.0, tested=0.0))  # one lucky seed
    records += [
        run("memorization", rate=rate, seed=seed, validated=rate, tested=1 - 100 * rate)
        for rate in (1e-3, 2e-3, 4e-3)
        for seed in (0, 1)
    ]
    comparison = table4(records)
    (ours,) = comparison.rows
    assert ours.scores["compression"].estimate.value == pytest.approx(30)  # of 0.1 and 0.5
    assert ours.scores["compression"].estimate.seeds == 2
    assert ours.scores["memorization"].estimate.value == pytest.approx(60)
    assert [note for note in notes_of(comparison) if "best by validation" in note] == [
        "atlas tiny, compression: training.learning_rate=0.001, "
        "the best by validation of 2 points, 1 with fewer seeds left out",
        "atlas tiny, memorization: training.learning_rate=0.004, "
        "the best by validation of 3 points",
    ]
    assert records[0].config["training"]["learning_rate"] == 1e-3  # records stay as they are


@pytest.mark.parametrize("validated", [(None, None), (0.9, None)])
def test_nothing_is_chosen_without_validation(
    run: MakeRun, validated: tuple[float | None, float | None]
) -> None:
    records = [
        run(rate=rate, validated=value, tested=rate * 100)
        for rate, value in zip((1e-3, 2e-3), validated, strict=True)
    ]
    comparison = table4(records)
    assert [ours.scores["compression"].estimate.value for ours in comparison.rows] == pytest.approx(
        [10, 20]
    )
    (said,) = comparison.grid_notes
    assert said.startswith(
        "atlas tiny, compression: the points of a grid of training.learning_rate"
    )
    assert "validation_samples=N" in said
    assert said in notes_of(comparison)


def test_scores_of_other_cells_cannot_choose(run: MakeRun) -> None:
    one, other = run(rate=1e-3, validated=0.5), run(rate=2e-3, validated=0.9)
    other.validation[0].length_name = "256"
    (grid,) = find_grids([one, other])
    assert grid.best == ()


def test_budgets_lengths_and_the_models_own_settings_are_no_grid(run: MakeRun) -> None:
    first = run(validated=0.5)
    others = [
        run(validated=0.9, tokens=10**6),
        run(validated=0.9, epochs=2),
        run(validated=0.9, curriculum={"stages": [{"length": 64}]}),
        run(validated=0.9),
        run("memorization", rate=2e-3, validated=0.9),
    ]
    others[3].config["model"]["memory"] = {"window": 4}
    assert find_grids([first, *others]) == []
    assert find_grids([first, run(seed=1, rate=1e-3, validated=0.9)]) == []
    assert len(table4([first, *others]).rows) == 6
    # What was not chosen from a grid is no cell of a row that was.
    chosen = [run(rate=rate, validated=rate) for rate in (1e-3, 2e-3)]
    alone = run("memorization", rate=2e-3, validated=0.9)
    rows = [set(ours.scores) for ours in table4([*chosen, alone]).rows]
    assert sorted(rows, key=str) == [{"compression"}, {"memorization"}]


# MAD's score ------------------------------------------------------------------------------------


def accuracy(subtask: str, change: str) -> float:
    """Another one for every case."""
    return 0.2 + 0.1 * SUBTASKS.index(subtask) + 0.01 * changes(subtask).index(change)


def score(subtask: str) -> float:
    return 100 * mean(accuracy(subtask, change) for change in changes(subtask))


def test_a_subtask_is_the_mean_over_all_of_its_changes(run: MakeRun) -> None:
    runs = [
        run(subtask, change, tested=accuracy(subtask, change))
        for subtask in SUBTASKS
        for change in changes(subtask)
    ]
    (ours,) = table4(runs).rows
    cells = {name: cell.estimate.value for name, cell in ours.scores.items()}
    recall = (score("in_context_recall") + score("noisy_recall")) / 2
    others = [score(SUBTASKS[at]) for at in (1, 3, 4, 5)]
    assert cells["compression"] == pytest.approx(score("compression"))
    assert cells["noisy_icr"] == pytest.approx(recall)
    assert cells["avg"] == pytest.approx(mean([recall, *others]))  # ATLAS's, of five columns
    assert cells["mean_six"] == pytest.approx(mean(map(score, SUBTASKS)))  # MAD's
    assert cells["avg"] != pytest.approx(cells["mean_six"])
    assert not any("b" in cell.marks for cell in ours.scores.values())

    missing = [each for each in runs if each.scores[0].subtask != "compression vocab_64"]
    comparison = table4(missing)
    (ours,) = comparison.rows
    cells = {name: cell.estimate.value for name, cell in ours.scores.items()}
    assert cells["compression"] == pytest.approx(100 * accuracy("compression", "baseline"))
    assert cells["noisy_icr"] == pytest.approx(recall)
    baselines = [100 * accuracy(subtask, "baseline") for subtask in SUBTASKS]
    assert cells["mean_six"] == pytest.approx(mean(baselines))  # never a mean of both
    marked = {name for name, cell in ours.scores.items() if "b" in cell.marks}
    assert marked == {"compression", "avg", "mean_six"}
    assert any(note.startswith("b: the baseline alone") for note in notes_of(comparison))
    # Changes without their baseline are no score at all.
    changed = [run("compression", change) for change in changes("compression")[1:]]
    assert table4(changed).rows == []


def test_a_score_is_the_mean_over_all_cases_or_of_the_baseline(run: MakeRun) -> None:
    runs = [
        run("memorization", change, tested=1.0 if change == "baseline" else 0.5)
        for change in changes("memorization")
    ]
    (ours,) = table4(runs).rows
    assert ours.scores["memorization"].estimate.value == pytest.approx(100 * 3.5 / 6)
    (ours,) = table4(each for each in runs if "vocab_1024" not in each.scores[0].subtask).rows
    assert ours.scores["memorization"].estimate.value == 100
    assert "b" in ours.scores["memorization"].marks


# everything at once -----------------------------------------------------------------------------


def test_a_table_of_everything_says_that_there_is_a_grid(run: MakeRun) -> None:
    records = [run(rate=rate, validated=rate) for rate in (1e-3, 2e-3)]
    (table,) = score_tables(records)
    assert sum(map(len, table.sections)) == 2
    (said,) = [note for note in table.notes if "grid" in note]
    assert said.startswith("Rows of atlas tiny are points of a grid of training.learning_rate.")
    assert "--best" in said
    assert not any("grid" in note for note in score_tables(records[:1])[0].notes)


def test_the_command_shows_the_best_alone_where_it_is_asked_to(
    run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for rate, validated, tested in ((1e-3, 0.9, 0.123), (2e-3, 0.8, 0.456)):
        made = run(rate=rate, validated=validated, tested=tested)
        write_record(made, Path(f"outputs/{rate}/record.json"))
    write_record(run("memorization", tested=0.789), Path("outputs/alone/record.json"))
    assert main(["outputs"]) == 0
    printed = capsys.readouterr().out
    assert {"12.3", "45.6", "78.9"} <= set(printed.split())
    assert "best by validation" not in printed
    assert main(["outputs", "--best"]) == 0
    printed = capsys.readouterr().out
    assert {"12.3", "78.9"} <= set(printed.split())
    assert "45.6" not in printed
    said = (
        "atlas tiny, compression: training.learning_rate=0.001, the best by validation of 2 points"
    )
    assert f"- {said}" in Path("outputs/report/table.md").read_text()
    with Path("outputs/report/scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    rates = {line["config.training.learning_rate"] for line in lines}
    assert (rates, len(lines)) == ({"0.001"}, 2)
