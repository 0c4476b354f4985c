"""Settings are chosen by validation scores, as means over seeds, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_records import record

from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.report.selection import best_settings


def run(
    rate: float, seed: int, validated: float, tested: int = 50, model: str = "atlas",
    metric: str = "accuracy",
) -> Record:  # fmt: skip
    config = {"seed": seed, "model": {"name": model}, "training": {"learning_rate": rate}}
    config["task"] = {"name": "mad", "lengths": ["128"]}
    score = Score("recall", 128, "128", metric, validated, 10)
    made = record(model, seed, correct=[tested] * 6, config=config)
    return replace(made, validation=[score])


def test_the_mean_over_seeds_of_the_validation_scores_decides() -> None:
    records = [
        run(1e-3, 0, 0.9, tested=10), run(1e-3, 1, 0.5, tested=10),  # the best mean, worst test
        run(2e-3, 0, 0.6, tested=99), run(2e-3, 1, 0.7, tested=99),
        run(4e-3, 0, 1.0, tested=99),  # a lucky seed whose other is missing
        run(1e-3, 0, 0.2, model="titans"), run(2e-3, 0, 0.3, model="titans"),
        run(1e-3, 1, 0.2, model="titans"), run(2e-3, 1, 0.3, model="titans"),
    ]  # fmt: skip
    atlas, titans = best_settings(records)
    assert (atlas.best[0].model, atlas.settings) == ("atlas", {"training.learning_rate": 1e-3})
    assert atlas.score == pytest.approx(0.7)
    assert atlas.points == 2
    assert {each.seed for each in atlas.best} == {0, 1}
    assert titans.settings == {"training.learning_rate": 2e-3}


def test_low_losses_are_high_scores_and_runs_without_validation_have_none() -> None:
    assert run(1e-3, 0, 12.5, metric="perplexity").validation_score == -12.5
    assert record().validation_score is None
    assert best_settings([record()]) == []
    (best,) = best_settings([run(rate, 0, rate, metric="loss") for rate in (2.0, 1.0, 3.0)])
    assert best.settings == {"training.learning_rate": 1.0}
