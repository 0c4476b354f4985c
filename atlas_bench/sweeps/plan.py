"""Which jobs a sweep has, and in which folder: a new one's, or one's that is gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from atlas_bench.artifacts.folder import SWEEP_NAME
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import (
    find_unfinished,
    read_index,
    start_index,
    sweep_identity,
)

OF_HYDRA = "multirun.yaml"  # that its sweeper writes before it looks at the jobs


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
    retries: bool  # jobs that failed: an optimizer's later draws rest on their failure
    traces: tuple[Path, ...] = ()  # what a new one creates before its first job, inmost first

    def undo(self) -> None:
        """Remove what the sweep created, as far as nothing else has been put there."""
        for path in self.traces:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


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
    fixed, lists = (
        [each.input_line for each in parsed if each.is_sweep_override() == swept]
        for swept in (False, True)
    )
    same = sweep_identity(as_dict(settings), fixed, lists)
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
        return _new(folder, same, words, facts, jobs_of(facts, parsed))
    if settings.resume is False:
        raise ConfigError(f"{folder} holds a sweep already; go on with it with resume=true")
    if index.identity != same:
        raise ConfigError(
            f"{folder} was started with another config or another command: "
            f"atlas-bench -m {' '.join(index.command)}"
        )
    return Plan(folder, new=False, retries=facts.trials is None)


def _new(
    folder: Path,
    same: str,
    words: Sequence[str],
    facts: SweepFacts,
    jobs: list[list[str] | None],
) -> Plan:
    """Start the index; the plan knows what was not there before."""
    ours = (folder / OF_HYDRA, folder / SWEEP_NAME, folder, *folder.parents)
    traces = tuple(path for path in ours if not path.exists())
    try:
        start_index(folder, same, words, jobs)
    except FileExistsError:
        raise ConfigError(
            f"{folder / SWEEP_NAME} is another sweep's that just started, or damaged; choose "
            f"another folder with hydra.sweep.dir=PATH"
        ) from None
    return Plan(folder, new=True, retries=facts.trials is None, traces=traces)


def jobs_of(facts: SweepFacts, parsed: Sequence[Override]) -> list[list[str] | None]:
    """The overrides of each job, None where an optimizer is yet to choose them."""
    if facts.trials is not None:
        return [None] * facts.trials
    try:
        (jobs,) = BasicSweeper.split_arguments(list(parsed), None)
    except HydraException as error:  # an interval
        raise ConfigError(f"{error}; give a list of values, or use sweep=optuna") from error
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
                chosen = next(iter(override.sweep_string_iterator()), None)
                if chosen is None:
                    raise ConfigError(f"{override.input_line} is an empty list of choices")
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
