"""Metrics decide how a score is shown and which of two is better."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from atlas_bench.artifacts.metrics import BITS_PER_BYTE, EXACT_MATCH, POSITION_LOSS, Metric, lower
from atlas_bench.artifacts.records import RecordError, read_record, write_record
from atlas_bench.artifacts.schema import RECORD_FORMAT, Record, Score
from atlas_bench.report.selection import best_settings
from atlas_bench.report.tables import rich_table, score_tables, scores_csv

NATS = lower("nats_per_token", "nats")


def run(value: float, rate: float = 0.1, metric: Metric = NATS) -> Record:
    score = Score("pg19", 1024, "1k", metric.name, value, 62)
    return Record(
        name="run", model="atlas", scale="tiny", task="lm", parameters=10, seed=0,
        scores=[score], validation=[score], metrics=[metric], wall_seconds=1.0, train_seconds=1.0,
        train_tokens=10, versions={}, device="cpu", tokenizer={}, protocol={},
        config={"training": {"learning_rate": rate}}, started_at="2025-01-31T12:00:00+00:00",
    )  # fmt: skip


def written(record: Record, folder: Path) -> Record:
    write_record(record, folder / "record.json")
    return read_record(folder / "record.json")


def test_a_metric_in_nats_is_shown_as_it_is_and_lower_is_better(tmp_path: Path) -> None:
    record = written(run(2.5), tmp_path)
    (table,) = score_tables([record])
    console = Console(width=120, record=True)
    console.print(rich_table(table))
    text = console.export_text()
    assert "nats per token" in text
    assert "2.5" in text
    assert "250" not in text
    assert "%" not in text
    assert record.validation_score == -2.5
    (best,) = best_settings([run(2.5, 0.1), run(1.5, 0.2), run(3.5, 0.3)])
    assert best.settings == {"training.learning_rate": 0.2}
    (line,) = csv.DictReader(io.StringIO(scores_csv([record])))
    assert (line["value"], line["unit"], line["higher_is_better"]) == ("2.5", "nats", "false")


def test_titles_name_the_unit_once() -> None:
    assert EXACT_MATCH.title == "exact match (%)"
    assert POSITION_LOSS.title == "position loss (nats)"
    assert BITS_PER_BYTE.title == "bits per byte"


def test_bounds_follow_the_interval() -> None:
    assert EXACT_MATCH.bounds(8, 8) == (pytest.approx(0.6756, abs=5e-5), 1.0)
    assert NATS.bounds(250, 100) == (None, None)


@pytest.mark.parametrize("values", [{"unit": "nats"}, {"interval": "bootstrap"}])
def test_impossible_metrics_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="speed"):
        Metric("speed", **values)


def test_records_of_format_1_get_metrics_by_name(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    written(run(2.5, metric=lower("word_perplexity", "perplexity")), tmp_path)
    content = json.loads(path.read_text())
    assert content["format"] == RECORD_FORMAT
    del content["format"], content["metrics"]
    content["scores"].append({**content["scores"][0], "metric": "exact_match", "value": 0.5})
    path.write_text(json.dumps(content))
    record = read_record(path)
    assert record.metrics == [lower("word_perplexity", "perplexity"), EXACT_MATCH]
    assert record.validation_score == -2.5
    content["format"] = RECORD_FORMAT + 1
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=f"its format {RECORD_FORMAT + 1} is later than"):
        read_record(path)
