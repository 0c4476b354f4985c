"""What a command asks for: flags, overrides, and the jobs that lists of choices make."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from atlas_bench.cli.compose import (
    compose,
    compose_settings,
    parse_overrides,
    use_saved_run,
    with_values,
)
from atlas_bench.cli.experiments import with_budget
from atlas_bench.cli.shorthand import annotations, written_out
from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import nearest
from atlas_bench.runs.checks import to_settings
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import MISSING, Index, Job

SWITCHES = (
    "--help", "-h", "--hydra-help", "--version", "--dry-run", "--multirun", "-m", "--run", "-r",
    "--resolve", "--shell-completion", "-sc",
)  # fmt: skip
OPTIONS = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd")
# Hydra's own, which would run a config that nobody has checked, or unpickle one.
REFUSED = ("--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of a command with their values, and its overrides.

    Raises ConfigError for a word that is neither.
    """
    flags, overrides = [], []
    for before, word in zip(["", *words], words, strict=False):
        if (flag := word.split("=", 1)[0]) in REFUSED:
            raise ConfigError(
                f"{flag} is not supported; resume=RUN continues a run, mode=eval checkpoint=RUN "
                f"evaluates it, and --config-dir DIR adds files of your own to conf/"
            )
        if word.startswith("-") or (before in OPTIONS and "=" not in word):
            flags.append(word)
        elif "=" in word or word.startswith("~"):
            overrides.append(written_out(word))
        else:
            raise ConfigError(
                f"{word} is not an override; write key=value, for instance model=atlas"
            )
    for flag in (word.split("=", 1)[0] for word in flags if word.startswith("-")):
        if flag not in (*SWITCHES, *OPTIONS):
            raise ConfigError(f"{flag} is not a flag{nearest(flag, (*SWITCHES, *OPTIONS))}")
    return flags, overrides


@dataclass(frozen=True)
class Command:
    """A command whose first job composes."""

    flags: list[str]  # with their values
    words: list[str]  # its own overrides
    added: list[str]  # those that take the config of the checkpoint's run
    overrides: list[Override]  # both, and those of hydra.sweeper.params
    config: DictConfig  # of the first job
    hydra: DictConfig  # Hydra's part of the config
    is_sweep: bool

    @property
    def arguments(self) -> list[str]:
        """The words for Hydra."""
        return [*self.flags, *self.words, *self.added]

    @property
    def trials(self) -> int | None:
        """The number of jobs of an optimizer, which draws them as it goes."""
        return self.hydra.sweeper.get("n_trials")

    @cached_property
    def settings(self) -> RunSettings:
        """The settings of the first job. Raises ConfigError if they are wrong."""
        return to_settings(self.config)

    def jobs(self) -> list[list[str]] | list[None]:
        """The overrides of a sweep's jobs; None where an optimizer draws them."""
        return jobs_of_grid(self.overrides) if self.trials is None else [None] * self.trials

    def settings_of_jobs(self) -> Iterator[RunSettings]:
        """The settings of each job; the first job's instead of those that an optimizer draws."""
        yield self.settings
        for job in self.jobs()[1:] if self.is_sweep else []:
            yield self.settings if job is None else compose_settings(job)

    def check_values(self) -> None:
        """Check the jobs that differ in values from the first; groups are composed by Hydra.

        Raises ConfigError in one sentence.
        """
        lists = [
            choices(each)
            for each in self.overrides
            if each.is_discrete_sweep() and each.key_or_group in annotations()
        ]
        for words in list(itertools.product(*lists))[1:]:
            to_settings(with_values(self.config, words))

    def index(self) -> Index:
        """The index of the sweep before it begins."""
        jobs = [Job(number, MISSING, words) for number, words in enumerate(self.jobs())]
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        return Index(self.words, jobs, started)


def read_command(arguments: Sequence[str]) -> Command:
    """Compose the first job of a command. Raises ConfigError in one sentence."""
    flags, words = split_words(with_budget(_with_search_path(arguments)))
    overrides = parse_overrides(words)
    if added := use_saved_run(overrides):
        overrides += parse_overrides(added)
    config, hydra = compose(first_job(overrides))
    is_sweep = hydra.mode == RunMode.MULTIRUN or not {"--multirun", "-m"}.isdisjoint(flags)
    if is_sweep and (params := hydra.sweeper.get("params")):
        lists = parse_overrides([f"{key}={value}" for key, value in params.items()])
        # What the command says of a key replaces its list, as in Hydra's own sweeper.
        overrides = list({each.get_key_element(): each for each in [*lists, *overrides]}.values())
        config, hydra = compose(first_job(overrides))
    for override in overrides:
        if override.is_sweep_override() and not is_sweep:
            raise ConfigError(
                f"{override.input_line} is a list of choices; add -m to run one job for each"
            )
    return Command(flags, words, added, overrides, config, hydra, is_sweep)


def _with_search_path(arguments: Sequence[str]) -> list[str]:
    """The words with ``--config-dir DIR`` as an override, which holds while a config is checked."""
    words = list(arguments)
    for at, word in enumerate(words):
        flag, _, folder = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = folder or "".join(words[at + 1 : at + 2])
            if not Path(folder).is_dir():
                raise ConfigError(f"{flag} {folder} is not a folder")
            words[at : at + 1 + ("=" not in word)] = [
                f"hydra.searchpath=['file://{Path(folder).absolute()}']"
            ]
    return words


def first_job(overrides: Sequence[Override]) -> list[str]:
    """The overrides of a sweep's first job."""
    return [choices(override)[0] for override in overrides]


def jobs_of_grid(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job in Hydra's order, without those of Hydra itself."""
    lists = {}
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.input_line} is an interval; give a list of values, or use sweep=optuna"
            )
        key = override.get_key_element()
        lists[key] = choices(override)
        if not override.is_sweep_override():
            lists[key] = [f"{key}={override.get_value_element_as_str()}"]  # as Hydra's sweeper does
    jobs = itertools.product(*lists.values())
    return [[word for word in job if not word.startswith("hydra")] for job in jobs]


def choices(override: Override) -> list[str]:
    """One override for each value of a list; only the lower end of an interval."""
    if not override.is_sweep_override():
        return [override.input_line]
    if override.is_discrete_sweep():
        values = list(override.sweep_string_iterator())
    else:
        values = [override.value().start]
    if not values:
        raise ConfigError(f"{override.input_line} is an empty list of choices")
    return [f"{override.get_key_element()}={value}" for value in values]
