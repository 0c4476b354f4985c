"""Tables: what is merged and what never is, and the three forms they come in."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from made_records import LENGTHS
from rich.console import Console

from atlas_bench.artifacts.schema import Record, Score, StageEnd
from atlas_bench.report.learning import learning_tables
from atlas_bench.report.render import render
from atlas_bench.report.row_groups import flatten, merge_seeds, natural, order_of
from atlas_bench.report.tables import (
    rich_table,
    score_tables,
    scores_csv,
    short_count,
)

MakeRecord = Callable[..., Record]
FIRST = ("qa1", "exact_match", (0, "0k"))


def markdown(records: list[Record], metric: str | None = None) -> str:
    tables = score_tables(records, metric)
    return render("tables.md", tables=tables, runs=sorted(records, key=order_of))


def terminal(records: list[Record], metric: str | None = None, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in score_tables(records, metric):
        console.print(rich_table(table))
    return console.export_text()


# merging --------------------------------------------------------------------------------------


def test_seeds_become_mean_and_standard_deviation(make_record: MakeRecord) -> None:
    values = [90, 96, 99]
    records = [make_record(seed=seed, correct=[v] * 6) for seed, v in enumerate(values)]
    (row,) = merge_seeds(records)
    cell = row.estimates[FIRST]
    assert row.label == "atlas tiny (3 seeds)"
    assert cell.value == pytest.approx(mean(values) / 100)
    assert cell.spread == pytest.approx(stdev(values) / 100)
    assert (cell.low, cell.high) == pytest.approx(
        (cell.value - cell.spread, cell.value + cell.spread)
    )
    assert (cell.seeds, cell.samples) == (3, 100)
    assert "95.0 ± 4.6" in markdown(records)


def test_one_seed_keeps_its_wilson_interval(make_record: MakeRecord) -> None:
    (row,) = merge_seeds([make_record(correct=[50] * 6)])
    cell = row.estimates[FIRST]
    assert (cell.low, cell.high) == pytest.approx((0.4038, 0.5962), abs=5e-5)
    assert cell.spread is None
    assert row.note is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": {"noise": "pg19"}}, "noise=pg19"),
        ({"protocol": {"new": 1}}, "new=1"),
        ({"tokenizer": {"fingerprint": "beef"}}, "tokenizer.fingerprint=beef"),
        ({"protocol": {"train_tokens": 3_000_000}}, "train_tokens=3000000"),
        ({"config": {"training": {"learning_rate": 0.1}}}, "training.learning_rate=0.1"),
        ({"parameters": 7_000_000}, "parameters=7000000"),
    ],
)
def test_different_runs_are_never_merged(make_record: MakeRecord, changes: dict, said: str) -> None:
    base = {"protocol": {"train_tokens": 2_000_000}}
    rows = merge_seeds([make_record(seed=0, **base), make_record(seed=1, **(base | changes))])
    assert [len(row.records) for row in rows] == [1, 1]
    assert {row.mark for row in rows} == {1, 2}
    assert any(said in row.note for row in rows)
    assert len({row.label for row in rows}) == 2


def test_what_does_not_matter_does_not_keep_seeds_apart(make_record: MakeRecord) -> None:
    def config(seed: int) -> dict:
        return {
            "seed": seed,
            "name": f"run-{seed}",
            "checkpoint": f"outputs/{seed}",
            "logger": {"mode": "offline" if seed else "online"},
            "task": {"lengths": ["0k"] * (seed + 1)},
        }

    records = [
        # the last step overshoots the budget a little, and not always alike
        make_record(
            seed=seed, config=config(seed), protocol={"train_tokens": 2_000_000 + 900 * seed}
        )
        for seed in range(3)
    ]
    (row,) = merge_seeds(records)
    assert len(row.records) == 3


def test_seeds_that_stopped_early_are_one_row_whatever_they_took(make_record: MakeRecord) -> None:
    def rows(stop_at: float | None) -> int:
        return len(
            merge_seeds(
                make_record(
                    seed=seed,
                    config={"seed": seed, "training": {"stop_at": stop_at}},
                    protocol={"train_tokens": tokens},
                )
                for seed, tokens in enumerate((300_000, 500_000))
            )
        )

    assert rows(0.99) == 1
    assert rows(None) == 2


def test_models_trained_differently_are_no_seeds_of_each_other(make_record: MakeRecord) -> None:
    def evaluation(seed: int, trained_on: str) -> Record:
        config = {"seed": seed, "mode": "eval", "trained_on": {"text": {"source": trained_on}}}
        return make_record(seed=seed, config=config)

    assert len(merge_seeds([evaluation(0, "embedded"), evaluation(1, "embedded")])) == 1
    assert len(merge_seeds([evaluation(0, "embedded"), evaluation(1, "pg19")])) == 2


def test_the_same_seed_again_is_a_row_of_its_own(make_record: MakeRecord) -> None:
    again = make_record(seed=0, started_at="2025-02-01T00:00:00+00:00")
    rows = merge_seeds([make_record(seed=0), make_record(seed=1), again])
    assert [[record.seed for record in row.records] for row in rows] == [[0, 1], [0]]
    assert "the same config run again" in rows[1].note


def test_rows_of_other_models_are_marked_when_measured_differently(make_record: MakeRecord) -> None:
    alike = [make_record("atlas"), make_record("titans")]
    assert all(row.mark is None for row in merge_seeds(alike))
    fewer = make_record("titans", samples=50, correct=[25] * 6)
    (table,) = score_tables([alike[0], fewer], "exact_match")
    assert "compare with care" in table.notes[1]
    assert "samples=100" in table.notes[2]
    assert "samples=50" in table.notes[3]


def test_order_does_not_depend_on_the_order_of_records(make_record: MakeRecord) -> None:
    records = [
        *(make_record(seed=seed) for seed in (0, 1)),
        make_record("titans", path=Path("a/record.json")),
        make_record("titans", protocol={"noise": "pg19"}, path=Path("b/record.json")),
    ]
    texts = {markdown(order) for order in itertools.permutations(records)}
    assert len(texts) == 1


def test_runs_without_scores_have_no_row(make_record: MakeRecord) -> None:
    assert merge_seeds([make_record(correct=[1], lengths=[])]) == []
    assert score_tables([make_record(lengths=[])]) == []


# forms ----------------------------------------------------------------------------------------


def test_terminal_table_fits_80_columns(make_record: MakeRecord) -> None:
    records = [make_record(model) for model in ("transformer", "atlas", "titans")]
    text = terminal(records, "exact_match")
    assert max(map(len, text.splitlines())) <= 80
    assert "babilong, exact match (%), 100 samples a cell" in text
    header = next(line for line in text.splitlines() if "subtask" in line)
    assert header.split() == ["subtask", "model", "size", "0k", "1k", "2k", "4k", "8k", "16k"]
    row = next(line for line in text.splitlines() if "transformer" in line)
    assert row.split()[:3] == ["transformer", "tiny", "1.2M"]
    assert row.split()[3:] == ["100.0", "95.0", "80.0", "55.0", "33.0", "18.0"]
    assert text.index("atlas") < text.index("titans") < text.index("transformer")
    assert "12–27" in text  # Wilson's of 18 of 100


def test_tables_are_grouped_by_metric_and_subtask(make_record: MakeRecord) -> None:
    record = make_record(subtasks=("qa10", "qa2", "qa1"))
    assert len(score_tables([record])) == 2
    assert len(score_tables([record], "published_metric")) == 1
    (table,) = score_tables([record], "published_metric")
    assert [section[0][0].text for section in table.sections] == ["qa1", "qa2", "qa10"]
    other_task = make_record(task="ruler")
    assert [
        table.title.split(",")[0] for table in score_tables([record, other_task], "exact_match")
    ] == ["babilong", "ruler"]


def test_gaps_and_other_sample_counts_show(make_record: MakeRecord) -> None:
    short = make_record(seed=1, lengths=[(0, "0k")])
    text = markdown([make_record(seed=0), short, make_record("titans", lengths=[(0, "0k")])])
    assert "± 0.0 |" in text
    assert "(1 seed)" in text
    assert "| – |" in text
    few = make_record("titans", samples=50, correct=[25] * 6)
    text = terminal([make_record(), make_record("transformer"), few], "exact_match")
    assert "100 samples a cell" in text
    assert "n=50" in text
    assert "n=100" not in text
    assert "50 samples a cell" in terminal([few])


def test_one_name_for_two_lengths_gets_two_columns(make_record: MakeRecord) -> None:
    records = [
        make_record("atlas", lengths=[(0, "0k"), (1000, "1k")]),
        make_record("titans", lengths=[(0, "0k"), (1024, "1k")]),
    ]
    (table,) = score_tables(records, "exact_match")
    assert table.headings[3:] == ["0k", "1k (1000)", "1k (1024)"]


def test_names_with_markup_print_as_they_are(make_record: MakeRecord) -> None:
    record = make_record(scale="[bold]|x")
    assert "[bold]|x" in terminal([record], width=160)
    assert r"[bold]\|x" in markdown([record])


def test_markdown_has_a_line_for_every_row_and_run(make_record: MakeRecord) -> None:
    first = make_record(seed=0, path=Path("outputs/a/record.json"))
    second = make_record(seed=1, path=Path("outputs/b/record.json"))
    text = markdown([second, first], "exact_match")
    assert text.count("| atlas tiny (2 seeds) |") == 1
    assert text.index("| outputs/a | atlas tiny | 0 |") < text.index("| outputs/b |")
    widths = {line.count(" | ") for line in text.split("## Runs")[0].splitlines() if "|" in line}
    assert len(widths) == 1


def test_csv_has_every_score_with_every_field(make_record: MakeRecord) -> None:
    records = [
        make_record("atlas", path=Path("outputs/a/record.json"), notes=["one", "two, three"]),
        make_record("titans", protocol={"chance": {"qa1": 0.5}}),
    ]
    rows = list(csv.DictReader(io.StringIO(scores_csv(records))))
    assert len(rows) == sum(len(record.scores) for record in records)
    first, score = rows[0], records[0].scores[0]
    assert first["run"] == "outputs/a"
    assert json.loads(first["notes"]) == ["one", "two, three"]
    assert first["protocol.chance.qa1"] == ""
    assert rows[-1]["protocol.chance.qa1"] == "0.5"
    for name, value in vars(score).items():
        assert first[name] == str(value)
    expected = {**vars(records[0]), "protocol.noise": "embedded", "versions.torch": "2.13.0"}
    for name in ("model", "seed", "train_seconds", "git_commit", "device", "protocol.noise"):
        assert first[name] == str(expected[name])
    assert first["config.model.name"] == "atlas"


def test_small_helpers() -> None:
    assert [short_count(n) for n in (999, 1500, 1_234_567, 340_000_000, 1_300_000_000)] == [
        "999",
        "1.5k",
        "1.2M",
        "340M",
        "1.3B",
    ]
    assert flatten({"a": {"b": {"c": 1}}, "d": [2]}) == {"a.b.c": 1, "d": [2]}
    assert sorted(["qa10", "qa2", "all"], key=natural) == ["all", "qa2", "qa10"]


def test_what_is_no_share_is_shown_as_it_is(make_record: MakeRecord) -> None:
    score = Score("wiki", 1000, "1k", "word_perplexity", 23.456, 62)
    text = markdown([make_record(scores=[score])])
    assert "word perplexity, 62 samples" in text
    assert "| 23.46 |" in text
    assert "Wilson" not in text


# tuning ---------------------------------------------------------------------------------------


def test_a_row_that_passed_no_stage_has_no_score_beside_others(make_record: MakeRecord) -> None:
    """Issue 18.1."""
    made = {
        model: [replace(make_record(model, seed), stages=ends) for seed, ends in enumerate(of)]
        for model, of in {
            "atlas": [[StageEnd(0, 100_000, True)], [StageEnd(0, 50_000, False)]],
            "titans": [[StageEnd(0, 50_000, False)], []],
        }.items()
    }
    text = markdown([*made["atlas"], *made["titans"]])
    titans = next(line for line in text.splitlines() if "titans tiny" in line)
    assert "not learnt" in titans
    assert titans.count(" – ") == len(LENGTHS)
    assert "2 seeds, 1 learnt" in text
    alone = terminal(made["titans"])
    assert "not learnt" in alone
    assert "100.0" in alone, "a model alone shows its scores"
    (table,) = learning_tables([*made["atlas"], *made["titans"]])
    shown = [[entry.text for entry in row] for row in table.rows]
    assert shown == [
        ["atlas tiny", "1.2M", "0", "2", "1", "100k", "2.0M", "–"],
        ["titans tiny", "1.2M", "0", "2", "0", "–", "2.0M", "–"],
    ]


def test_rows_that_were_tuned_unequally_are_named(make_record: MakeRecord) -> None:
    """Issue 18.1."""
    tuned = {"trials": 6, "chosen": {"training.learning_rate": 2e-3}}
    records = [
        make_record("atlas", config={"training": tuned}),
        make_record("titans", config={"training": {}}),
    ]
    note = "Tuned unequally, so compare with care: no trials: titans tiny"
    assert note in markdown(records)
    (table,) = learning_tables(records)
    assert [entry.text for entry in table.rows[0]][2:] == [
        "6", "1", "–", "–", "2.0M", "learning_rate 0.002",
    ]  # fmt: skip
    assert note not in markdown(records[:1])
