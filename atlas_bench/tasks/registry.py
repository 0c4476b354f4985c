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

# conf/task/NAME.yaml takes its keys from `KEY_schema`; several files may share one.
TASKS: dict[str, type[TaskSettings]] = {
    "babilong": BabilongSettings,
    "ruler": RulerSettings,
    "mqar": MqarSettings,
    "mad": MadSettings,
    "suite": SuiteSettings,
    "lm": LanguageModellingSettings,
    "learnability": LearnabilitySettings,
}
