"""The command `atlas-bench`: check what it asks for, then let Hydra start the job or the sweep.

The config is composed before Hydra starts, so that every mistake in it ends in one sentence and
exit code 2, with nothing created and nothing overwritten.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from atlas_bench import __version__
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.records import read_record
from atlas_bench.cli.command import Command, read_command
from atlas_bench.cli.compose import one_sentence, register_schema
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.naming import cause
from atlas_bench.runs.checks import check_machine, to_settings
from atlas_bench.runs.resume import folder_to_resume
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import DONE, FAILED, refresh_index
from atlas_bench.sweeps.job import JobStart, do_job
from atlas_bench.sweeps.plan import Plan, plan_sweep

BAD_INPUT = 2
HELP = {"--help", "-h", "--hydra-help"}
SHOWS_CONFIG = {"--cfg", "-c", "--info", "-i"}


def main() -> None:
    """Console script. Exit codes: 0 done, 1 failed, 2 bad input, 130 and 143 stopped."""
    try:
        _do(sys.argv[1:])
    except ConfigError as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _do(arguments: Sequence[str]) -> None:
    """Do what a command asks for."""
    if "--version" in arguments:
        print(f"atlas-bench {__version__}")
        return
    if HELP.intersection(arguments):
        _start_hydra(arguments)
        return
    command = read_command(arguments)
    flags = {flag.split("=")[0] for flag in command.flags}
    if flags & SHOWS_CONFIG:
        _start_hydra(command.arguments)
    elif "--dry-run" in flags:
        from atlas_bench.runs.estimate import as_text, estimate_jobs

        print(as_text(list(estimate_jobs(command.settings_of_jobs()))))
    elif command.settings.mode == "describe":
        from atlas_bench.runs.estimate import describe

        check_models(command)
        for settings in command.settings_of_jobs():
            print(describe(settings))
    else:
        added, plan = check(command)
        if plan is not None:
            sys.exit(_sweep(command, plan, [*command.arguments, *added]))
        _start_hydra([*command.arguments, *added])


def _start_hydra(arguments: Sequence[str]) -> None:
    register_schema()
    sys.argv[1:] = arguments
    # Not as a decorator: launchers find the function that other processes call by its name.
    conf = str(folder_of("conf"))
    hydra.main(config_path=conf, config_name="config", version_base="1.3")(_job)()


# before Hydra starts -----------------------------------------------------------------------


def check(command: Command) -> tuple[list[str], Plan | None]:
    """Check a command that runs: overrides that name its folder, and the plan of a sweep.

    Raises ConfigError in one sentence.
    """
    settings, facts = command.settings, command.facts
    check_models(command)
    if command.is_sweep:
        if facts.trials is not None and not settings.validation_samples:
            raise ConfigError(
                f"hydra/sweeper={facts.sweeper} looks for the best score on validation samples; "
                f"set validation_samples to 1 or more"
            )
        plan = plan_sweep(command.index(), settings, facts.sweep_folder)
        return [f"hydra.sweep.dir={_quoted(plan.folder)}"], plan
    if settings.resume is False:
        return [], None
    folder = folder_to_resume(settings)
    if folder is None:
        print("resume=true: no unfinished run of this config was found, starting a new one")
        return [], None
    return [f"hydra.run.dir={_quoted(folder)}"], None


def check_models(command: Command) -> None:
    """Check the first job with each model, also whether this machine can run it.

    Jobs that a launcher sends to other machines are left out; every job checks itself again.
    """
    if command.facts.launcher == "basic":
        for settings in command.settings_of_models():
            check_machine(settings)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"


# in a job ----------------------------------------------------------------------------------


def _job(config: DictConfig) -> float | None:
    """One run; in a sweep its score on the validation samples, which an optimizer looks at."""
    facts = HydraConfig.get()
    folder = Path(facts.runtime.output_dir)
    if facts.mode == RunMode.MULTIRUN:
        return _sweep_job(config, RunFolder(folder))
    from atlas_bench.runs.execute import RunError

    try:
        _run(to_settings(config), folder)
    except (ConfigError, RunError) as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT if isinstance(error, ConfigError) else 1)
    return None


def _run(settings: RunSettings, folder: Path) -> None:
    from atlas_bench.runs.execute import Stopped, execute

    try:
        execute(settings, folder)
    except Stopped as stopped:
        print(f"atlas-bench: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal)


def _sweep_job(config: DictConfig, folder: RunFolder) -> float | None:
    try:
        settings = to_settings(config)
    except ConfigError:
        settings = None
    facts = HydraConfig.get()
    job = JobStart(
        number=int(facts.job.num),
        overrides=list(facts.overrides.task),
        settings=settings,
        folder=folder,
        sweep=Path(facts.sweep.dir),
        again=facts.sweeper.get("n_trials") is None,
    )

    def work() -> None:
        settings = to_settings(config)
        settings.logger.group = settings.logger.group or job.sweep.name
        if folder.config.is_file():
            settings.resume = str(folder)
        _run(settings, folder.path)

    record = do_job(job, work)
    return None if record is None else read_record(record).validation_score


# a sweep -----------------------------------------------------------------------------------


def _sweep(command: Command, plan: Plan, arguments: Sequence[str]) -> int:
    """Do a sweep's jobs and say how they ended; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them itself
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    exit_code = 1
    try:
        _start_hydra(arguments)
    except (HydraException, OmegaConfBaseException) as error:
        if plan.created and not any(job.folder for job in refresh_index(plan.folder).jobs):
            plan.undo()
        raise ConfigError(one_sentence(error, arguments)) from error
    except Exception as error:  # a launcher's: one of its processes died, or all draws failed
        print(f"atlas-bench: the sweep ended early: {cause(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        exit_code = 128 + signal.SIGINT
    except SystemExit as error:
        exit_code = int(error.code)
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
    retries = command.facts.trials is None
    does = "does them and no others" if retries else "does those left, no draw that failed"
    print(
        f"atlas-bench: {len(failed)} failed and {left} left; the same command with resume=true "
        f"{does}",
        file=sys.stderr,
    )
    return exit_code
