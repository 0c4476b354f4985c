"""Which tasks there are. To add one, write its file and add its settings here."""

from __future__ import annotations

from atlas_bench.tasks.babilong.task import BabilongSettings
from atlas_bench.tasks.language_modelling import LanguageModellingSettings
from atlas_bench.tasks.learnability.task import LearnabilitySettings
from atlas_bench.tasks.mad.task import MadSettings
from atlas_bench.tasks.mqar import MqarSettings
from atlas_bench.tasks.ruler.task import RulerSettings
from atlas_bench.tasks.suites.task import SuiteSettings
from atlas_bench.tasks.task import TaskSettings

# `task=NAME` takes conf/task/NAME.yaml, or without such a file the defaults of the settings here.
# The files have the keys of these settings as `NAME_schema`; several files may share one.
TASKS: dict[str, type[TaskSettings]] = {
    "babilong": BabilongSettings,
    "ruler": RulerSettings,
    "mqar": MqarSettings,
    "mad": MadSettings,
    "commonsense": SuiteSettings,
    "lm": LanguageModellingSettings,
    "learnability": LearnabilitySettings,
}
