"""The command `atlas-bench`: compose, validate, hand over to run.py.

The config is composed once before Hydra starts, so that every mistake in it ends in one sentence
and exit code 2, with nothing created and nothing overwritten.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.cli.checkpoint_overrides import overrides_of_checkpoint
from atlas_bench.cli.compose import (
    _compose,
    _composed,
    _first_line,
    _overrides_of,
    _parsed,
    _quoted,
    _sentence,
)
from atlas_bench.cli.experiments import with_budget
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict
from atlas_bench.config.locations import folder_of
from atlas_bench.runs.checks import check_machine, to_settings
from atlas_bench.runs.resume import folder_to_resume
from atlas_bench.runs.settings import RunSettings, register_schema
from atlas_bench.sweeps.index import DONE, FAILED, refresh_index
from atlas_bench.sweeps.job import JobStart, do_job
from atlas_bench.sweeps.plan import Plan, SweepFacts, jobs_of, one_job, plan_sweep, swept_models

BAD_INPUT = 2
DRY_RUN = "--dry-run"
LEAVES_NOTHING = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]


def main() -> None:
    """Console script. Exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 stopped."""
    register_schema()
    plan = None
    try:
        arguments = with_budget(sys.argv[1:])
        if DRY_RUN in arguments:
            print(_dry_run([word for word in arguments if word != DRY_RUN]))
            return
        if not any(word in ("--help", "-h", "--hydra-help", "--version") for word in arguments):
            words, plan = _checked(arguments)
            arguments += words
        if "--version" in arguments:
            from atlas_bench import __version__

            print(f"atlas-bench {__version__}")
            return
        sys.argv[1:] = arguments
        if plan is None:
            _start()
        else:
            sys.exit(_sweep(plan, arguments))
    except ConfigError as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _start() -> None:
    # Not as a decorator: launchers find the function that other processes are to call by its name.
    conf = str(folder_of("conf"))
    hydra.main(config_path=conf, config_name="config", version_base="1.3")(_job)()


def _sweep(plan: Plan, arguments: list[str]) -> int:
    """Do a sweep's jobs and say how they ended; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise what else it would print by itself
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    stopped = None
    try:
        _start()
    except (HydraException, OmegaConfBaseException) as error:
        if plan.new and not any(job.folder for job in refresh_index(plan.folder).jobs):
            plan.undo()
        raise ConfigError(_sentence(error, _overrides_of(arguments))) from error
    except Exception as error:  # a launcher's: one of its processes died, or all draws failed
        kind = type(error).__name__
        print(f"atlas-bench: the sweep ended early: {kind}: {_first_line(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        stopped = 128 + signal.SIGINT
    except SystemExit as error:
        stopped = error.code
    finally:
        signal.signal(signal.SIGTERM, before)
    index = refresh_index(plan.folder)
    done, failed = index.of(DONE), index.of(FAILED)
    print(f"sweep   {plan.folder}: {len(done)} of {len(index.jobs)} jobs done", flush=True)
    for job in failed:
        print(f"atlas-bench: job {job.number} failed: {job.reason}", file=sys.stderr)
    if len(done) == len(index.jobs):
        return 0
    left = len(index.jobs) - len(done) - len(failed)
    does = "does them and no others" if plan.retries else "does those left, no draw that failed"
    print(
        f"atlas-bench: {len(failed)} failed and {left} left; the same command with resume=true "
        f"{does}",
        file=sys.stderr,
    )
    return 1 if stopped is None else int(stopped)


def _job(config: DictConfig) -> float | None:
    """One run; in a sweep its score on the validation samples, which an optimizer looks at."""
    from hydra.core.hydra_config import HydraConfig

    facts = HydraConfig.get()
    folder = Path(facts.runtime.output_dir)
    if facts.mode == RunMode.MULTIRUN and config.mode != "describe":
        from atlas_bench.artifacts.records import read_record

        job = JobStart(
            number=int(facts.job.num),
            overrides=list(facts.overrides.task),
            config=_checked_config(config),
            folder=folder,
            sweep=Path(facts.sweep.dir),
            again=facts.sweeper.get("n_trials") is None,
        )
        record = do_job(job, lambda: _run(config, folder, sweep=job.sweep))
        return None if record is None else read_record(record).validation_score
    from atlas_bench.runs.execute import RunError

    try:
        _run(config, folder)
    except (ConfigError, RunError) as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT if isinstance(error, ConfigError) else 1)
    return None


def _checked_config(config: DictConfig) -> dict[str, Any]:
    """The config as the job's folder will hold it; as composed where the checks refuse it."""
    try:
        return as_dict(to_settings(config))
    except ConfigError:
        return OmegaConf.to_container(config, resolve=True)


def _run(config: DictConfig, folder: Path, *, sweep: Path | None = None) -> None:
    from atlas_bench.runs.estimate import describe
    from atlas_bench.runs.execute import Stopped, execute

    settings = to_settings(config)
    if settings.mode == "describe":
        print(describe(settings))
        return
    if sweep is not None:
        settings = _of_sweep(settings, folder, sweep)
    try:
        execute(settings, folder)
    except Stopped as stopped:
        print(f"atlas-bench: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal)


def _of_sweep(settings: RunSettings, folder: Path, sweep: Path) -> RunSettings:
    """A job goes on where its folder has a checkpoint, and is grouped with the others in W&B."""
    config = RunFolder(folder).config
    if config.is_file() and not config.stat().st_size:
        config.unlink()  # of a job killed as it claimed its folder
    if config.is_file():
        settings.resume = str(folder)
    settings.logger.group = settings.logger.group or sweep.name
    return settings


@dataclass(frozen=True)
class _Command:
    """What the words of a command say."""

    overrides: list[str]
    added: list[str]  # overrides that `checkpoint` asks for besides
    parsed: list[Override]  # all of them, in a sweep with the lists of hydra.sweeper.params
    config: DictConfig  # of the job, or of a sweep's first
    facts: SweepFacts
    is_sweep: bool


def _read(arguments: Sequence[str]) -> _Command:
    """Raise ConfigError for overrides that do not compose."""
    overrides = _overrides_of(arguments)
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word} is no override; write key=value, for instance model=atlas")
    parsed = _parsed(overrides)
    added = overrides_of_checkpoint(parsed, _compose)
    parsed += _parsed(added)
    # A sweep is checked with the first value of each list and, where no launcher sends its jobs
    # elsewhere, with all its models; every job checks its own again.
    config, facts = _composed(one_job(parsed))
    is_sweep = facts.wanted or any(word in ("-m", "--multirun") for word in arguments)
    if is_sweep and facts.params:
        lists = _parsed([f"{key}={value}" for key, value in facts.params.items()])
        # What the command says of a key replaces its list, as in Hydra's own sweeper.
        parsed = list({each.get_key_element(): each for each in [*lists, *parsed]}.values())
        config, facts = _composed(one_job(parsed))
    return _Command(overrides, added, parsed, config, facts, is_sweep)


def _checked(arguments: Sequence[str]) -> tuple[list[str], Plan | None]:
    """Raise ConfigError for bad overrides.

    The overrides that `checkpoint`, `resume` and sweeps ask for besides, and a sweep's plan.
    """
    command = _read(arguments)
    if any(argument in ("--cfg", "-c", "--info", "-i") for argument in arguments):
        return command.added, None
    settings = _settings(command)
    if command.facts.launcher == "basic":
        check_machine(settings)
        for model in swept_models(command.parsed)[1:]:
            check_machine(to_settings(_compose(one_job(command.parsed, model))))
    if settings.mode == "describe":
        return [*command.added, *LEAVES_NOTHING], None
    if command.is_sweep:
        plan = plan_sweep(settings, command.facts, command.parsed, command.overrides)
        return [*command.added, f"hydra.sweep.dir={_quoted(str(plan.folder))}"], plan
    if settings.resume is False:
        return command.added, None
    folder = folder_to_resume(settings)
    if folder is None:
        print("resume=true: no unfinished run of this config was found, starting a new one")
        return command.added, None
    return [*command.added, f"hydra.run.dir={_quoted(str(folder))}"], None


def _settings(command: _Command) -> RunSettings:
    """Of the job or of a sweep's first. Raises ConfigError for a list outside of a sweep."""
    swept = next((each.input_line for each in command.parsed if each.is_sweep_override()), None)
    if swept and not command.is_sweep:
        raise ConfigError(f"{swept} is a list of choices; add -m to run one job for each")
    return to_settings(command.config)


def _dry_run(arguments: Sequence[str]) -> str:
    """What every job of the command would be and cost."""
    from atlas_bench.runs.estimate import as_text, estimate_jobs

    command = _read(arguments)
    jobs = [_settings(command)]
    if command.is_sweep and command.facts.trials is None:
        jobs = [to_settings(_compose(job)) for job in jobs_of(command.facts, command.parsed)]
    elif command.is_sweep:  # an optimizer's jobs differ in what does not change their size
        jobs *= command.facts.trials
    return as_text(list(estimate_jobs(jobs)))
