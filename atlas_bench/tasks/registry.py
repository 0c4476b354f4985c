"""Which tasks there are: the settings of each, their check, and what makes the task of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from atlas_bench.tasks.babilong.task import (
    BabilongSettings,
    BabilongTask,
    check_babilong,
)
from atlas_bench.tasks.language_modelling import (
    LanguageModellingSettings,
    LanguageModellingTask,
    check_language_modelling,
)
from atlas_bench.tasks.learnability.online import OnlineTask
from atlas_bench.tasks.learnability.task import (
    LearnabilitySettings,
    LearnabilityTask,
    check_learnability,
)
from atlas_bench.tasks.mad import MadSettings, MadTask, check_mad
from atlas_bench.tasks.mqar import MqarSettings, MqarTask, check_mqar
from atlas_bench.tasks.ruler.task import RulerSettings, RulerTask, check_ruler
from atlas_bench.tasks.suites.task import SuiteSettings, SuiteTask, check_suite
from atlas_bench.tasks.task import Task, TaskSettings
from atlas_bench.text.settings import TextSettings, check_text


@dataclass(frozen=True)
class Entry:
    """``check`` raises ValueError in one sentence; ``make`` takes the settings of task and text,
    the run's ``seed`` and ``question_every``, the mean tokens between two questions in training.
    ``trains``: whether it has training data at all.
    ``samples``: the key of how many samples it draws for a cell, by task.seed, so that there are
    others to choose settings by; a task with a split for that has a method ``validation``."""

    settings: type[TaskSettings]
    check: Callable[..., None]
    make: Callable[..., Task | OnlineTask]
    trains: bool = True
    samples: str | None = None


# conf/task/NAME.yaml takes its keys from `NAME_schema`; several files may share one.
TASKS = {
    "babilong": Entry(BabilongSettings, check_babilong, BabilongTask, samples="samples"),
    "ruler": Entry(RulerSettings, check_ruler, RulerTask, samples="samples"),
    "mqar": Entry(MqarSettings, check_mqar, MqarTask),
    "mad": Entry(MadSettings, check_mad, MadTask),
    "suite": Entry(SuiteSettings, check_suite, SuiteTask, trains=False),
    "lm": Entry(LanguageModellingSettings, check_language_modelling, LanguageModellingTask),
    "learnability": Entry(
        LearnabilitySettings, check_learnability, LearnabilityTask, samples="sequences"
    ),
}
# Added to a task's seed: far from all that one would choose.
_VALIDATION_SEED = 1_000_003


def check_task(task: TaskSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence, naming the key, for a task that cannot be asked."""
    check_text(text)
    _entry(task).check(task, text)


def trains(task: TaskSettings) -> bool:
    """Whether a model can be trained on the task."""
    return _entry(task).trains


def make_task(
    task: TaskSettings, text: TextSettings, *, seed: int, question_every: int
) -> Task | OnlineTask:
    """The task of these settings. Raises ValueError for a text or tokenizer that cannot be had."""
    return _entry(task).make(task, text, seed=seed, question_every=question_every)


def check_validation(task: TaskSettings, samples: int) -> None:
    """Raise ValueError in one sentence where settings cannot be chosen by other samples."""
    if not hasattr(_entry(task).make, "validation"):
        validation_settings(task, samples)


def validation_settings(task: TaskSettings, samples: int) -> TaskSettings:
    """Settings of the same task with ``samples`` other samples a cell: to choose a learning rate
    by them leaves the task's own samples unseen. Raises ValueError where there are no others."""
    key = _entry(task).samples
    published = getattr(task, "source", "") == "hub" or getattr(task, "questions", "") == "real"
    if key is None or published:
        raise ValueError(
            f"validation_samples={samples}: task={task.name} has no samples apart from those it "
            f"is tested on; use validation_samples=0"
        )
    return replace(task, seed=task.seed + _VALIDATION_SEED, **{key: samples})


def _entry(task: TaskSettings) -> Entry:
    return next(entry for entry in TASKS.values() if entry.settings is type(task))
