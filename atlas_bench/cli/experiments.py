"""The budget of an experiment: `+experiment=NAME budget=paper` is Hydra's `+experiment=NAME/paper`.

Hydra could choose conf/experiment/NAME/BUDGET.yaml by itself with `- NAME/${budget}` in a defaults
list, but then it refuses `override` lines in that file, and experiments override task and scale.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.naming import check_choice

BUDGETS = ("laptop", "paper")


def experiment_names() -> list[str]:
    """The folders of conf/experiment."""
    return sorted(path.name for path in (folder_of("conf") / "experiment").iterdir())


def with_budget(words: Sequence[str]) -> list[str]:
    """A command's words with its experiment as Hydra reads it; the default budget is laptop.

    Raises ConfigError in one sentence for an unknown experiment or budget, and for a budget
    without an experiment.
    """
    values = dict(word.split("=", 1) for word in words if "=" in word)
    if "experiment" in values:
        raise ConfigError(
            f"experiment={values['experiment']} is added to a config; write a + before it"
        )
    if "+experiment" not in values:
        if "budget" in values:
            raise ConfigError(
                f"budget={values['budget']} belongs to an experiment; add +experiment=NAME, one of "
                f"{', '.join(experiment_names())}"
            )
        return list(words)
    name, _, budget = values["+experiment"].partition("/")
    budget = values.get("budget", budget or BUDGETS[0])
    try:
        check_choice("experiment", name, experiment_names())
        check_choice("budget", budget, BUDGETS)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    kept = [word for word in words if not word.startswith("budget=")]
    chosen = f"+experiment={name}/{budget}"
    return [chosen if word.startswith("+experiment=") else word for word in kept]
