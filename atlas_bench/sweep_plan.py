"""Which jobs a sweep has, and in which folder: a new one's, or one's that is gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from atlas_bench.config import ConfigError, RunSettings, as_dict
from atlas_bench.sweep import find_unfinished, read_index, start_index, sweep_identity


@dataclass(frozen=True)
class SweepFacts:
    """What Hydra's part of a composed config says about sweeps."""

    wanted: bool  # hydra.mode=MULTIRUN; the flag -m is another way
    folder: Path
    launcher: str
    sweeper: str
    params: dict[str, Any]  # hydra.sweeper.params: what is varied, beside the command's own lists
    trials: int | None  # of an optimizer, which decides on its jobs as it goes


@dataclass(frozen=True)
class Plan:
    """A sweep that can start; its index is written."""

    folder: Path
    new: bool


def plan_sweep(
    settings: RunSettings, facts: SweepFacts, parsed: Sequence[Override], words: Sequence[str]
) -> Plan:
    """The folder and the index of the sweep over ``parsed``, whose first job has ``settings``.

    ``words`` are the command's overrides, ``parsed`` those of hydra.sweeper.params too. Raises
    ConfigError for a folder that holds a sweep and is not to be resumed, or holds another.
    """
    if facts.trials is not None and not settings.validation_samples:
        raise ConfigError(
            f"hydra/sweeper={facts.sweeper} looks for the best score on validation samples; set "
            f"validation_samples to 1 or more"
        )
    varied = [override.input_line for override in parsed]
    same = sweep_identity(as_dict(settings), varied)
    folder, explicit = facts.folder.absolute(), any(w.startswith("hydra.sweep.dir=") for w in words)
    if isinstance(settings.resume, str):
        folder = Path(settings.resume).absolute()
        if read_index(folder) is None:
            raise ConfigError(f"resume={folder} is no sweep's folder: it has no sweep.json")
    elif settings.resume and not explicit:
        found = find_unfinished(Path(settings.output_dir), same)
        if found is None:
            print("resume=true: no unfinished sweep of this config was found, starting a new one")
        folder = folder if found is None else found.absolute()
    index = read_index(folder)
    if index is None:
        start_index(folder, same, words, jobs_of(facts, parsed))
        return Plan(folder, new=True)
    if settings.resume is False:
        raise ConfigError(f"{folder} holds a sweep already; go on with it with resume=true")
    if index.identity != same:
        raise ConfigError(
            f"{folder} was started with another config or another command: "
            f"atlas-bench -m {' '.join(index.command)}"
        )
    return Plan(folder, new=False)


def jobs_of(facts: SweepFacts, parsed: Sequence[Override]) -> list[list[str] | None]:
    """The overrides of each job, None where an optimizer is yet to choose them."""
    if facts.trials is not None:
        return [None] * facts.trials
    (jobs,) = BasicSweeper.split_arguments(list(parsed), None)
    return [[word for word in job if not word.startswith("hydra")] for job in jobs]


def one_job(parsed: Sequence[Override], model: str | None = None) -> list[str]:
    """The overrides of a sweep's first job, or of the first with one of its models."""
    single = []
    for override in parsed:
        key, chosen = override.get_key_element(), None
        if override.is_sweep_override():
            if model is not None and override.key_or_group == "model":
                chosen = model
            elif override.is_discrete_sweep():
                chosen = next(iter(override.sweep_string_iterator()))
            else:
                chosen = override.value().start  # of an interval
        single.append(override.input_line if chosen is None else f"{key}={chosen}")
    return single


def swept_models(parsed: Sequence[Override]) -> list[str]:
    """The models that a sweep goes through."""
    return [
        str(model)
        for override in parsed
        if override.key_or_group == "model" and override.is_sweep_override()
        for model in override.sweep_string_iterator()
    ]
