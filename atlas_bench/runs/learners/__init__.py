"""The registry of learners: which one a run's settings ask for.

To add one, write a file with a `Learner` and add a line to `learner_for`.
"""

from __future__ import annotations

from atlas_bench.evaluation.learner import Learner
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import ONLINE


def learner_for(settings: RunSettings) -> Learner:
    """The learner of a run; nothing is built or loaded yet."""
    if settings.task.kind == ONLINE:
        from atlas_bench.runs.learners.online import OnlineNetworks as learner
    elif settings.model.hub is not None:
        from atlas_bench.runs.learners.hub import PretrainedModel as learner
    else:
        from atlas_bench.runs.learners.language_model import TrainedModel as learner
    return learner(settings)
