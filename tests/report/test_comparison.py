"""Ours beside the papers': what is put where, what is marked, what the files say."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from atlas_bench.artifacts.metrics import wilson_interval
from atlas_bench.artifacts.records import write_record
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.cli.report import main
from atlas_bench.report.comparison import compare, order_kept
from atlas_bench.report.comparison_tables import comparison_csv, comparison_tables
from atlas_bench.report.published import published_table
from atlas_bench.report.render import render
from atlas_bench.report.tables import rich_table

MakeRecord = Callable[..., Record]
LENGTHS = ((2048, "2k"), (4096, "4k"), (8192, "8k"))
# What a run of table2_760m must say of itself.
AS_IN_THE_PAPER = {
    "parameters": 780_000_000,
    "train_tokens": 30_000_500_000,
    "tokenizer": {"name": "google/t5-small", "fingerprint": "f00d"},
    "config": {"text": {"source": "stream", "dataset": "HuggingFaceFW/fineweb-edu"}},
}


def needles(correct: int, samples: int = 500) -> list[Score]:
    return [
        Score(name, tokens, length, "string_match_all", correct / samples, samples,
              *wilson_interval(correct, samples))
        for name in ("S-NIAH-PK", "niah_single_2")
        for tokens, length in LENGTHS
    ]  # fmt: skip


def commonsense(accuracy: float, perplexity: float, mark: str = "") -> list[Score]:
    subtasks = ("lambada_openai", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge")
    return [
        *(
            Score(f"{name}{mark}", 0, "0-shot", "perplexity", perplexity, 6000)
            for name in ("wikitext", "lambada_openai")
        ),
        *(
            Score(f"{name}{mark}", 0, "0-shot", "accuracy", accuracy, 20000)
            for name in (*subtasks, "social_iqa", "boolq")
        ),
    ]


def rows_of(table) -> dict[str, list[str]]:
    rows = [row for section in table.sections for row in section]
    return {row[0].text: [entry.full for entry in row[1:]] for row in rows}


def test_ours_is_under_the_papers_with_difference_and_interval(make_record: MakeRecord) -> None:
    record = make_record(task="s_niah", scores=needles(450))
    comparison = compare(published_table("table3_s_niah"), [record])
    first, second = comparison_tables(comparison)
    assert first.title.endswith("(arXiv 2505.23735 Table 3), S-NIAH-PK")
    assert first.headings == ["model", "2k", "4k", "8k", "16k"]
    rows = rows_of(first)
    assert list(rows)[:3] == ["Atlas, paper", "atlas tiny, ours", "difference"]
    assert rows["Atlas, paper"] == ["100.0", "99.2", "98.0", "97.0"]
    low, high = wilson_interval(450, 500)
    assert rows["atlas tiny, ours"][0] == f"90.0≠ [{100 * low:.1f}, {100 * high:.1f}]"
    assert rows["difference"] == ["−10.0", "−9.2", "−8.0", "–"]
    assert "TTT, paper" in rows
    # notes of all groups stand below the last one
    assert first.notes == []
    assert any("No run found has a score of S-NIAH-W" in note for note in second.notes)


def test_seeds_are_pooled_and_counted(make_record: MakeRecord) -> None:
    records = [
        make_record(task="s_niah", seed=seed, scores=needles(450 + 10 * seed)) for seed in range(3)
    ]
    (ours,) = compare(published_table("table3_s_niah"), records).rows
    cell = ours.scores["pk_4k"].estimate
    assert (cell.value, cell.spread, cell.seeds) == (pytest.approx(92), pytest.approx(2), 3)
    sheet = comparison_tables(compare(published_table("table3_s_niah"), records))[0]
    assert rows_of(sheet)["atlas tiny, ours"][0] == "92.0≠ ± 2.0"
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(sheet))
    text = console.export_text()
    assert "3 seeds" in text
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_is_marked_where_all_is_as_in_the_paper(make_record: MakeRecord) -> None:
    record = make_record(task="commonsense", scores=commonsense(0.5, 20.0), **AS_IN_THE_PAPER)
    comparison = compare(published_table("table2_760m"), [record])
    (ours,) = comparison.rows
    assert set(ours.scores) == {column.name for column in published_table("table2_760m").columns}
    assert {score.marks for score in ours.scores.values()} == {""}
    (sheet,) = comparison_tables(comparison)
    rows = rows_of(sheet)
    assert rows["atlas tiny, ours"][:3] == ["20.00", "20.00", "50.0"]
    assert rows["atlas tiny, ours"][-1] == "50.00"
    assert rows["difference"][:3] == ["+1.08", "−1.01", "+10.9"]
    assert not any("≠" in note for note in sheet.notes)
    assert any("as in the paper, as far as the record says" in note for note in sheet.notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": 163_000}, "163k parameters, not 760M"),
        ({"train_tokens": 15_000_000_000}, "15.0B training tokens, not 30.0B"),
        ({"train_tokens": 0}, "trained in another run"),
        ({"tokenizer": {"name": "bpe-1024"}}, "tokenizer bpe-1024, not T5 or Llama-2, 32k"),
        ({"config": {"text": {"source": "embedded"}}}, "data embedded, not FineWeb or FineWeb-Edu"),
    ],
)
def test_each_difference_marks_every_cell_and_is_said(
    make_record: MakeRecord, changes: dict, said: str
) -> None:
    facts = AS_IN_THE_PAPER | changes
    record = make_record(task="commonsense", scores=commonsense(0.5, 20.0), **facts)
    comparison = compare(published_table("table2_760m"), [record])
    assert {cell.marks for cell in comparison.rows[0].scores.values()} == {"≠"}
    assert len(comparison.rows[0].differs) == 1
    (sheet,) = comparison_tables(comparison)
    assert any(said in note for note in sheet.notes)
    assert any(note.startswith("≠: not the paper's protocol") for note in sheet.notes)
    assert "49.4" not in comparison_csv(comparison)
    assert said in comparison_csv(comparison)


def test_fewer_samples_mark_their_cell_alone(make_record: MakeRecord) -> None:
    scores = commonsense(0.5, 20.0)
    scores[3].samples = 100
    record = make_record(task="commonsense", scores=scores, **AS_IN_THE_PAPER)
    (ours,) = compare(published_table("table2_760m"), [record]).rows
    assert scores[3].subtask == "piqa"
    marked = {name for name, cell in ours.scores.items() if cell.marks}
    assert marked == {"piqa_acc", "avg"}
    assert ours.scores["piqa_acc"].reasons == ("fewer samples, 100 and not 1838",)


def test_fixtures_have_no_difference(make_record: MakeRecord) -> None:
    scores = commonsense(0.9, 2.0, mark=" (fixture)")
    records = [
        make_record(model, task="commonsense", scores=scores, **AS_IN_THE_PAPER)
        for model in ("atlas", "transformer")
    ]
    comparison = compare(published_table("table2_760m"), records)
    assert {score.marks for ours in comparison.rows for score in ours.scores.values()} == {"≠f"}
    (sheet,) = comparison_tables(comparison)
    rows = rows_of(sheet)
    assert "difference" not in rows
    assert not any(name.startswith("pairs") for name in rows)
    assert rows["atlas tiny, ours"][3] == "90.0≠f"
    assert any("f: made-up fixture data" in note for note in sheet.notes)


def test_a_stand_in_is_never_subtracted(make_record: MakeRecord) -> None:
    records = [make_record("atlas"), make_record("titans")]  # BABILong qa1
    comparison = compare(published_table("table6_ablation"), records)
    (ours,) = comparison.rows  # Titans has no row in that table
    assert ours.preset == "atlas"
    assert not comparison.measured
    assert ours.scores["avg_acc"].marks == "≠s"
    assert ours.scores["avg_acc"].estimate.value == pytest.approx(
        sum((100, 98, 97, 96, 93, 90)) / 6
    )
    (sheet,) = comparison_tables(comparison)
    assert "difference" not in rows_of(sheet)
    assert any("babilong qa1 exact_match" in note for note in sheet.notes)


def test_stand_ins_are_means_over_the_lengths_that_all_have(make_record: MakeRecord) -> None:
    other = make_record("atlas_linear", correct=[90, 10], lengths=((0, "0k"), (1000, "1k")))
    records = [make_record("atlas"), other]
    comparison = compare(published_table("table6_ablation"), records)
    values = {ours.preset: ours.scores["avg_acc"].estimate.value for ours in comparison.rows}
    assert values == {"atlas": pytest.approx(99), "atlas_linear": pytest.approx(50)}
    (sheet,) = comparison_tables(comparison)
    assert any("babilong over 0k, 1k" in note for note in sheet.notes)


def test_a_checkpoint_is_marked_by_the_text_that_it_was_trained_on(make_record: MakeRecord) -> None:
    asked_with = AS_IN_THE_PAPER["config"]  # the text of the evaluation alone
    trained_on = {"text": {"source": "embedded"}, "task": {"name": "lm"}}
    as_in_the_paper = AS_IN_THE_PAPER | {"config": {**asked_with, "trained_on": trained_on}}
    record = make_record(
        "atlas", task="commonsense", scores=commonsense(0.7, 20.0), **as_in_the_paper
    )
    (ours,) = compare(published_table("table2_760m"), [record]).rows
    assert ours.differs == ("data embedded, not FineWeb or FineWeb-Edu",)


def test_order_counts_pairs_of_one_scale(make_record: MakeRecord) -> None:
    accuracy = {"atlas": 0.9, "titans": 0.8, "transformer": 0.85, "kda": 1.0}
    records = [
        make_record(model, task="commonsense", scores=commonsense(value, 20 - value))
        for model, value in accuracy.items()
        if model != "kda"
    ]
    records.append(
        make_record("atlas", task="commonsense", scale="760m", scores=commonsense(0.1, 99.0))
    )
    table = published_table("table2_760m")
    comparison = compare(table, records)
    columns = {column.name: column for column in table.columns}
    # paper: atlas 69.7, titans 69.3, transformer 66.9; ours: atlas, transformer, titans
    assert order_kept(comparison, columns["piqa_acc"], "tiny") == (2, 3)
    # paper: 18.92, 20.04, 25.21; ours: atlas, transformer, titans from the lowest
    assert order_kept(comparison, columns["wiki_ppl"], "tiny") == (2, 3)
    assert order_kept(comparison, columns["piqa_acc"], "760m") == (0, 0)
    rows = rows_of(comparison_tables(comparison)[0])
    assert rows["pairs in the paper's order, tiny"][3] == "2/3"
    assert "pairs in the paper's order, 760m" not in rows


def test_one_row_from_a_run_for_each_subtask(make_record: MakeRecord) -> None:
    """MAD trains anew for every case, and the vocabulary changes the number of parameters."""

    def run(subtask: str, change: str, value: float, **more: object) -> Record:
        shown = subtask if change == "baseline" else f"{subtask} {change}"
        task = {"name": "mad", "subtask": subtask, "change": change}
        return make_record(
            task="mad",
            scores=[Score(shown, 128, "128", "macro_accuracy", value, 1280)],
            config={"task": task, **more},
            parameters=100_000 + 1000 * len(change),
        )

    runs = [
        run("in_context_recall", "baseline", 0.9),
        run("noisy_recall", "baseline", 0.4),
        run("compression", "baseline", 0.5),
    ]
    (ours,) = compare(published_table("table4_mad"), runs).rows
    assert ours.scores["noisy_icr"].estimate.value == pytest.approx((90 + 40) / 2)
    assert "avg" not in ours.scores  # two subtasks are missing
    assert any("108k parameters" in said for said in ours.differs)
    # The same case again, or another learning rate, is another row.
    again = run("compression", "baseline", 0.1)
    other = run("compression", "baseline", 0.2, training={"learning_rate": 0.1})
    found = compare(published_table("table4_mad"), [*runs, again, other]).rows
    assert len(found) == 3
    assert {each.group.name for each in found} == {f"atlas tiny [{mark}]" for mark in (1, 2, 3)}
    assert any("training.learning_rate=0.1" in each.group.note for each in found)


def test_models_that_the_paper_has_not_are_shown_too(make_record: MakeRecord) -> None:
    comparison = compare(published_table("fig_babilong"), [make_record("atlas")])
    (sheet,) = comparison_tables(comparison)
    rows = rows_of(sheet)
    assert list(rows) == ["Mamba, paper", "RMT, paper", "ARMT, paper", "atlas tiny, ours"]
    assert rows["atlas tiny, ours"][1].startswith("98.0≠ [")


def test_csv_has_a_line_for_every_pair(make_record: MakeRecord) -> None:
    record = make_record(task="s_niah", scores=needles(450))
    text = comparison_csv(compare(published_table("table3_s_niah"), [record]))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 14 * 12 - 9  # all that is printed, ours beside some
    (line,) = [line for line in lines if line["column"] == "pk_4k" and line["model"] == "Atlas"]
    assert (line["paper"], line["ours"], line["difference"]) == ("99.2", "90.0", "-9.2")
    assert (line["preset"], line["scale"], line["seeds"], line["samples"]) == (
        *("atlas", "tiny", "1", "500"),
    )
    assert line["source"] == "arXiv 2505.23735v1 Table 3"
    assert line["marks"] == "≠"
    assert {line["ours"] for line in lines if line["model"] == "TTT"} == {""}


# the command ----------------------------------------------------------------------------------


def test_the_command_prints_and_writes_a_table(
    make_record: MakeRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(make_record(task="s_niah", scores=needles(450)), Path("outputs/a/record.json"))
    assert main(["--table", "table3_s_niah", "outputs"]) == 0
    printed = capsys.readouterr().out
    assert "atlas tiny, ours" in printed
    assert "no replication" in printed
    written = sorted(path.name for path in Path("outputs/report").iterdir())
    assert written == [f"table3_s_niah.{kind}" for kind in ("csv", "md", "tex")]
    markdown = Path("outputs/report/table3_s_niah.md").read_text()
    assert "| difference | −10.0 | −9.2 | −8.0 | – |" in markdown
    record = make_record(task="s_niah", scores=needles(450))
    first, _ = comparison_tables(compare(published_table("table3_s_niah"), [record]))
    assert render("tables.md", tables=[first]) in markdown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "table3_sniah", "outputs"], "(did you mean table3_s_niah?)"),
        (["--table", "table3_sniah"], "(did you mean table3_s_niah?)"),
        (["--table", "table3_s_niah"], "required: DIR"),
        (["--table", "table3_s_niah", "outputs"], "none of the 1 runs found has a score of table3"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    make_record: MakeRecord,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(make_record(), Path("outputs/a/record.json"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not Path("outputs/report").exists()


def test_the_command_lists_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[3].split()[0] == "table3_s_niah"
    assert "arXiv 2505.23735 Table 3" in lines[3]
