"""Issue 18.1: what validation chose is kept for each model and scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_records import record

from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import Record, Score, StageEnd
from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.report.selection import best_settings
from atlas_bench.report.tuned import write_tuned

TUNED = Path(__file__).parents[2] / "conf" / "tuned"


def trial(rate: float, chunk: int, validated: float, **training: object) -> Record:
    config = {
        "seed": 100,
        "model": {"name": "titans", "memory": {"chunk": chunk}},
        "training": {"learning_rate": rate, **training},
        "task": {"name": "babilong"},
    }
    made = record("titans", 100, config=config, scores=[])
    made.validation = [Score("qa1", 0, "0k", "exact_match", validated, 50)]
    made.stages = [StageEnd(0, 90_000, validated > 0.9)]
    return made


def test_the_best_trial_is_written_with_all_of_them(tmp_path: Path) -> None:
    records = [trial(1e-3, 4, 0.5), trial(2e-3, 4, 0.98), trial(2e-3, 16, 0.6)]
    (grid,) = best_settings(records)
    path = write_tuned(grid, ["training.learning_rate", "model.memory.chunk", "model"], tmp_path)
    assert path.name == "titans_tiny.yaml"
    text = path.read_text()
    assert "best of 3 trials" in text
    assert "learnt at 90,000" in text
    assert "0.500 (not learnt)" in text.replace("\n# ", " ")
    assert "chunk: 4" in text
    assert "learning_rate: 0.002" in text
    assert "trials: 3" in text


def test_trials_that_differ_in_more_are_refused(tmp_path: Path) -> None:
    records = [trial(1e-3, 4, 0.5, tokens=1), trial(2e-3, 4, 0.98, tokens=2)]
    (grid,) = best_settings(records)
    with pytest.raises(RecordError, match=r"differ in training\.tokens, which conf/tuned"):
        write_tuned(grid, [], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(TUNED.glob("*_*.yaml")), ids=lambda path: path.stem)
def test_a_model_takes_what_was_chosen_for_it(path: Path) -> None:
    model, scale = path.stem.rsplit("_", 1)
    settings = compose_settings([f"model={model}", f"scale={scale}"])
    assert settings.training.trials >= 6
    chosen = settings.training.chosen
    assert chosen["training.learning_rate"] == settings.training.learning_rate
    other = compose_settings([f"model={model}", f"scale={scale}", "training.learning_rate=0.123"])
    assert (other.training.trials, other.training.chosen) == (0, {})
    plain = compose_settings([f"model={model}", f"scale={scale}", "tuned=none"])
    assert (plain.training.trials, plain.training.chosen) == (0, {})


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="tuned=nine is not one of .*none"):
        compose_settings(["tuned=nine"])
