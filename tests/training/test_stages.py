"""The stages of a curriculum: the task's own, or a list that is checked against the task."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_bench.tasks.babilong.task import BabilongSettings
from atlas_bench.tasks.language_modelling import LanguageModellingSettings
from atlas_bench.tasks.mqar import MqarSettings
from atlas_bench.tasks.stages import LengthStage, NoiseStage, Stage
from atlas_bench.tasks.suites.task import SuiteSettings
from atlas_bench.tasks.task import TaskSettings
from atlas_bench.training.settings import CurriculumSettings, TrainingSettings, with_stages


def stages(given: Any, task: TaskSettings) -> list[Stage] | None:
    settings = TrainingSettings(curriculum=CurriculumSettings(stages=given))
    return with_stages(settings, task).curriculum.stages


def test_null_means_the_tasks_own_stages() -> None:
    assert stages(None, MqarSettings()) == [Stage()]
    assert stages(None, LanguageModellingSettings()) == [LengthStage(length=1024)]
    assert [stage.noise for stage in stages(None, BabilongSettings())] == [0.0, 0.0, 0.5, 0.8, 0.9]
    assert stages(None, SuiteSettings()) is None, "it trains nothing"


def test_a_list_is_read_as_stages_of_the_task() -> None:
    given = [{"length": 128, "noise": 0.5, "penalty_scale": 3}, {}]
    expected = [NoiseStage(length=128, noise=0.5, penalty_scale=3.0), NoiseStage()]
    assert stages(given, BabilongSettings()) == expected


def test_a_stage_has_as_many_sequences_as_the_tokens_of_a_step_make() -> None:
    assert LengthStage(length=128).sequences(512) == 4
    assert Stage().sequences(512) == 0, "training.min_sequences decides"


@pytest.mark.parametrize(
    ("given", "task", "said"),
    [
        ([], BabilongSettings(), r"training\.curriculum\.stages=\[\] must be null or a list"),
        ({"length": 64}, BabilongSettings(), "must be null or a list"),
        ([64], BabilongSettings(), r"stages\[0\]=64 must be a mapping with the keys coarse"),
        ([{}, {"noise": 1.0}], BabilongSettings(), r"stages\[1\]\.noise=1.0 must be .* below 1"),
        ([{"noise": "much"}], BabilongSettings(), r"stages\[0\]\.noise: Value 'much'"),
        ([{"length": 8}], BabilongSettings(), r"stages\[0\]\.length=8 must be at least 64"),
        ([{"lenght": 64}], BabilongSettings(), r"stages\[0\]\.lenght .*did you mean length\?"),
        ([{"longest": 0.0}], MqarSettings(), r"stages\[0\]\.longest=0.0 must be above 0"),
        ([{"penalty_scale": -1.0}], MqarSettings(), r"penalty_scale=-1.0 must be at least 0"),
        ([{"price": 1.0}], MqarSettings(), r"stages\[0\]\.price is now .*\[0\]\.penalty_scale"),
        ([{"noise": 0.5}], LanguageModellingSettings(), "noise is not a key of .* task=lm"),
        ([{"length": 64}], MqarSettings(), "length is not a key of .* task=mqar"),
    ],
)
def test_a_wrong_stage_ends_in_one_sentence(given: Any, task: TaskSettings, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stages(given, task)
