"""Which budget of an experiment a command means: conf/experiment/NAME/BUDGET.yaml.

`+experiment=NAME budget=paper` becomes Hydra's `+experiment=NAME/paper`. Hydra could choose by
itself with `- NAME/${budget}` in a defaults list; but it fills these in after all `override` lines
have been collected and refuses such lines in what it then finds, and experiments override task and
scale.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.naming import check_choice

BUDGETS = ("laptop", "paper")
_EXPERIMENT, _BUDGET = "+experiment", "budget"


def experiment_names() -> list[str]:
    """All of conf/experiment."""
    return sorted(path.name for path in (folder_of("conf") / "experiment").iterdir())


def with_budget(words: Sequence[str]) -> list[str]:
    """A command's words with the experiment as Hydra has it; laptop where no budget is given.

    Raises ConfigError in one sentence for an unknown one, and for a budget of no experiment.
    """
    values = dict(word.split("=", 1) for word in words if "=" in word)
    if "experiment" in values:
        raise ConfigError(
            f"experiment={values['experiment']} is added to a config; write a + before it"
        )
    if _EXPERIMENT not in values:
        if _BUDGET in values:
            raise ConfigError(
                f"budget={values[_BUDGET]} belongs to an experiment; add +experiment=NAME, one of "
                f"{', '.join(experiment_names())}"
            )
        return list(words)
    name, _, budget = values[_EXPERIMENT].partition("/")
    budget = values.get(_BUDGET, budget or BUDGETS[0])
    try:
        check_choice("experiment", name, experiment_names())
        check_choice("budget", budget, BUDGETS)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    chosen = f"{_EXPERIMENT}={name}/{budget}"
    return [
        chosen if word.startswith(f"{_EXPERIMENT}=") else word
        for word in words
        if not word.startswith(f"{_BUDGET}=")
    ]
