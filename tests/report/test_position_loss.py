"""The loss over positions, looked at through the figure, and its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report.plots.figures import plots_of, position_loss_figure
from atlas_bench.report.plots.style import save
from atlas_bench.report.render import render
from atlas_bench.report.tables import main_metrics, score_tables

MakeRecord = Callable[..., Record]
MODELS = ("atlas", "titans")
BUCKETS = ("0-255", "256-511", "512-1023", "1024-2047")


def scores(shift: float) -> list[Score]:
    """Falling with the position; the shorter length has two buckets."""
    return [
        Score(bucket, tokens, name, "position_loss", 5 - 0.5 * at + shift, 256)
        for tokens, name, count in ((2048, "2k", 4), (512, "512", 2))
        for at, bucket in reversed(list(enumerate(BUCKETS[:count])))
    ]


def test_one_panel_a_length_with_positions_in_order(make_record: MakeRecord) -> None:
    records = [make_record(model, scores=scores(0.1 * at)) for at, model in enumerate(MODELS)]
    short, long = position_loss_figure([*records, make_record("transformer")]).axes
    assert [axes.get_title(loc="left") for axes in (short, long)] == [
        "windows of 512", "windows of 2k",
    ]  # fmt: skip
    assert [label.get_text() for label in long.get_xticklabels()] == list(BUCKETS)
    lines = {line.get_label(): list(line.get_ydata()) for line in long.lines}
    assert lines == {
        "atlas tiny": [5, 4.5, 4, 3.5],
        "titans tiny": pytest.approx([5.1, 4.6, 4.1, 3.6]),
    }
    assert [len(line.get_xdata()) for line in short.lines] == [2, 2]


def test_seeds_are_merged(make_record: MakeRecord) -> None:
    records = [make_record("atlas", seed, scores=scores(0.2 * seed)) for seed in range(3)]
    _, axes = position_loss_figure(records).axes
    (line,) = axes.lines
    assert line.get_label() == "atlas tiny (3 seeds)"
    assert list(line.get_ydata()) == pytest.approx([5.2, 4.7, 4.2, 3.7])


def test_written_as_a_file_or_left_out(make_record: MakeRecord, tmp_path: Path) -> None:
    figure = position_loss_figure([make_record(scores=scores(0.0))])
    assert save(figure, tmp_path / "new/loss.png").stat().st_size > 5000
    assert position_loss_figure([make_record()]) is None


def test_tables_have_positions_in_order_and_no_per_cent(make_record: MakeRecord) -> None:
    text = render("tables.md", tables=score_tables([make_record(scores=scores(0.0))]))
    places = [text.index(f"| {bucket} |") for bucket in BUCKETS]
    assert places == sorted(places)
    assert "4.5" in text
    assert "%" not in text


def test_a_report_has_the_loss_over_positions_and_not_over_length(make_record: MakeRecord) -> None:
    held_out = [Score("held-out", tokens, str(tokens), "perplexity", 9, 99) for tokens in (512, 64)]
    record = make_record(task="lm", scores=[*held_out, *scores(0.0)])
    metrics = main_metrics([record])
    assert metrics == ["perplexity", "position_loss"]
    names = [plot.name for plot in plots_of([record], metrics)]
    assert names == ["accuracy", "position_loss"]
