"""The papers' tables: complete, possible, and of one piece with each other."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest

from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report import published
from atlas_bench.report.published import PublishedRow, published_names, published_table
from atlas_bench.tasks.mad.cases import BASELINE, SUBTASKS, changes

MakeRecord = Callable[..., Record]
FOLDER = Path(published.__file__).parent / "published"
MODELS = Path(__file__).parents[2] / "conf" / "model"
COMMONSENSE = (
    *("lambada_acc", "piqa_acc", "hellaswag_acc", "winogrande_acc"),
    *("arc_easy_acc", "arc_challenge_acc", "social_iqa_acc", "boolq_acc"),
)
# One paper rounds its accuracies before it averages them, another after; the averages of others
# differ by more and carry a note that says so.
ROUNDING = 0.03


def row(table: str, preset: str) -> PublishedRow:
    return next(row for row in published_table(table).rows if row.preset == preset)


@pytest.mark.parametrize("name", published_names())
def test_every_table_is_complete(name: str) -> None:
    table = published_table(name)
    assert all(row.source.startswith("arXiv ") for row in table.rows)
    if name == "fig_learnability":  # curves without numbers
        assert not any(row.values for row in table.rows)
        assert {column.decimals for column in table.columns} == {3}
        return
    assert len(table.rows) >= 3
    assert all(row.values for row in table.rows)
    models = [row.model for row in table.rows]
    assert len(set(models)) == len(models)
    presets = [row.preset for row in table.rows if row.preset]
    assert len(set(presets)) == len(presets)
    known = {path.stem for path in MODELS.glob("*.yaml")}
    assert set(presets) <= known
    for column in table.columns:
        # Of the means over five tasks the text of BABILong gives but some.
        printed = any(column.name in row.values for row in table.rows)
        assert printed or column.name.startswith("mean_")


def test_the_tables_of_the_papers_are_all_there() -> None:
    assert published_names() == [
        *("table2_760m", "table2_1_3b", "table8_340m", "table3_s_niah"),
        *("table4_mad", "table5_recall", "table6_ablation", "fig_babilong"),
        "fig_learnability",
    ]
    cells = {
        name: sum(len(row.values) for row in published_table(name).rows)
        for name in published_names()
    }
    assert cells == {
        "table2_760m": 18 * 11,
        "table2_1_3b": 14 * 11,
        "table8_340m": 15 * 3,
        "table3_s_niah": 14 * 12 - 9,  # ATLAS has no W at 16K
        "table4_mad": 5 * 6,
        "table5_recall": 5 * 7,
        "table6_ablation": 8 * 2,
        "fig_babilong": 5 * (9 + 12 + 12) + 1 + 9,
        "fig_learnability": 0,
    }


@pytest.mark.parametrize("name", ["table2_760m", "table2_1_3b"])
def test_printed_averages_are_those_of_the_printed_accuracies(name: str) -> None:
    for each in published_table(name).rows:
        average = mean(each.values[column] for column in COMMONSENSE)
        if each.note:
            assert abs(average - each.values["avg"]) > ROUNDING
            assert f"is {average:.2f}" in each.note
        else:
            assert average == pytest.approx(each.values["avg"], abs=ROUNDING)


@pytest.mark.parametrize(
    ("name", "average", "prefix"),
    [
        ("table4_mad", "avg", ""),
        ("table5_recall", "avg", ""),
        *(("fig_babilong", f"mean_{length}", "qa") for length in ("0k", "4k", "32k", "1m", "10m")),
    ],
)
def test_other_averages(name: str, average: str, prefix: str) -> None:
    suffix = average.removeprefix("mean") if prefix else ""
    for each in published_table(name).rows:
        values = [
            value
            for column, value in each.values.items()
            if column != average and column.startswith(prefix) and column.endswith(suffix)
        ]
        if average in each.values:
            assert mean(values) == pytest.approx(each.values[average], abs=0.01)
            assert len(values) in (5, 6)


def test_the_ablation_is_of_the_760m_table() -> None:
    for preset in ("atlas", "atlas_plus", "atlas_mag", "atlas_mal", "omeganet"):
        ablated, full = row("table6_ablation", preset).values, row("table2_760m", preset).values
        assert ablated["avg_acc"] == full["avg"]
        ppl = mean([full["wiki_ppl"], full["lambada_ppl"]])
        assert ablated["ppl"] == pytest.approx(ppl, abs=0.006)


def test_numbers_that_the_text_of_the_papers_names() -> None:
    assert row("table3_s_niah", "atlas").values["w_8k"] == 86.2
    assert row("table3_s_niah", "titans").values["w_16k"] == 80.6
    assert row("table2_1_3b", "atlas_plus").values["wiki_ppl"] == 14.40
    assert row("table8_340m", "titans").values["avg"] == 46.17
    assert row("table4_mad", "atlas").values["memorization"] == 91.4
    armt = published_table("fig_babilong").rows[2]
    assert (armt.model, armt.preset, armt.values["qa3_10m"]) == ("ARMT", "armt", 37)


def test_a_measure_finds_its_score_and_no_other(make_record: MakeRecord) -> None:
    scores = [
        Score("niah_single_1", 4096, "4k", "string_match_all", 0.5, 100),
        Score("niah_single_1", 8192, "8k", "string_match_all", 0.4, 100),
        Score("niah_single_2", 4096, "4k", "string_match_all", 0.3, 100),
        Score("niah_single_1", 4096, "4k", "exact_match", 0.2, 100),
    ]
    columns = {column.name: column for column in published_table("table3_s_niah").columns}
    (measure,) = columns["pk_4k"].weights
    assert measure.scores(make_record(task="s_niah", scores=scores)) == scores[:1]
    assert measure.scores(make_record(task="ruler", scores=scores)) == scores[:1]
    assert measure.scores(make_record(task="babilong", scores=scores)) == []
    made_up = [Score("niah_single_1 (fixture)", 4096, "4k", "string_match_all", 1.0, 3)]
    assert measure.scores(make_record(task="s_niah", scores=made_up)) == made_up


def test_the_average_is_of_columns_and_not_of_all_their_parts() -> None:
    columns = {column.name: column for column in published_table("table4_mad").columns}
    baselines = {measure.name: weight for measure, weight in columns["avg"].baselines.items()}
    assert len(columns["noisy_icr"].baselines) == 2
    assert baselines.pop("mad_in_context_recall") == baselines.pop("mad_noisy_recall") == 0.1
    assert list(baselines.values()) == [0.2] * 4
    for column in columns.values():
        assert sum(column.weights.values()) == pytest.approx(1)


def test_the_cases_of_mad_are_those_of_the_task() -> None:
    cases = {measure.subtasks for measure in published_table("table4_mad").columns[-1].weights}
    assert cases == {
        (subtask if change == BASELINE else f"{subtask} {change}",)
        for subtask in SUBTASKS
        for change in changes(subtask)
    }


# the files ------------------------------------------------------------------------------------


def lines_of(file: str) -> list[dict[str, str]]:
    with (FOLDER / f"{file}.csv").open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.parametrize("name", published_names())
def test_the_columns_of_a_table_are_those_of_columns_csv(name: str) -> None:
    columns = [column.name for column in published_table(name).columns]
    assert list(lines_of(name)[0]) == ["model", "preset", *columns, "source", "note"]


@pytest.mark.parametrize("name", published_names())
def test_every_row_has_a_model_a_source_and_possible_numbers(name: str) -> None:
    table = published_table(name)
    per_cent = {column.name for column in table.columns if column.in_per_cent}
    for each in table.rows:
        assert each.model
        assert each.source
        for column, value in each.values.items():
            assert 0 <= value < (100.001 if column in per_cent else math.inf), (each.model, column)


@pytest.mark.parametrize("name", published_names())
def test_the_decimals_are_the_printed_ones(name: str) -> None:
    for column in published_table(name).columns:
        printed = [line[column.name] for line in lines_of(name) if line[column.name]]
        most = max((len(number.partition(".")[2]) for number in printed), default=None)
        assert column.decimals == (most if printed else 0 if column.in_per_cent else 3)


def test_no_column_mixes_units_and_every_measure_is_known() -> None:
    measures = [line["name"] for line in lines_of("measures")]
    assert len(set(measures)) == len(measures)
    for line in lines_of("columns"):
        assert line["table"] in published_names()
        named = line["measures"].replace("+", " ").split() + line["stand_in"].split()
        assert set(named) <= set(measures), line["name"]
    for name in published_names():
        for column in published_table(name).columns:
            assert len({each.unit for each in (*column.weights, *column.stand_in)}) == 1
