"""The command `atlas-bench`: check what it asks for, then let Hydra start the job or the sweep.

The config is composed before Hydra starts, so that every mistake in it ends in one sentence and
exit code 2, with nothing created and nothing overwritten.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from atlas_bench import __version__
from atlas_bench.artifacts.folder import LOCK_NAME, RunFolder, create_folder
from atlas_bench.artifacts.lock import locked
from atlas_bench.artifacts.records import read_record, try_record
from atlas_bench.cli.command import Command, choices, read_command
from atlas_bench.cli.compose import COMPOSE_ERRORS, one_sentence, register_schema, unknown_choice
from atlas_bench.cli.entry import exit_code
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.locations import folder_of
from atlas_bench.models.mixer import MIXERS
from atlas_bench.models.settings import ModelSettings
from atlas_bench.naming import cause
from atlas_bench.runs.checks import check_machine, to_settings
from atlas_bench.runs.resume import check_new, folder_to_resume
from atlas_bench.runs.settings import RunSettings
from atlas_bench.sweeps.index import DONE, FAILED, refresh_index
from atlas_bench.sweeps.job import JobStart, do_job
from atlas_bench.sweeps.plan import Plan, plan_sweep

HELP = {"--help", "-h", "--hydra-help"}
SHOWS_CONFIG = {"--cfg", "-c", "--info", "-i"}


def main() -> None:
    """Console script. Exit codes: 0 done, 1 failed, 2 bad input, 128 + N stopped by signal N."""
    if code := exit_code("atlas-bench", lambda: _do(sys.argv[1:])):
        sys.exit(code)


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

        print("\n".join([describe(settings) for settings in command.settings_of_jobs()]))
    else:
        _do_jobs(command)


def _start_hydra(arguments: Sequence[str]) -> None:
    register_schema()
    sys.argv[1:] = arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them itself
    # Not as a decorator: launchers find the function that other processes call by its name.
    conf = str(folder_of("conf"))
    hydra.main(config_path=conf, config_name="config", version_base="1.3")(_job)()


# before Hydra starts -----------------------------------------------------------------------


def _do_jobs(command: Command) -> None:
    """Check a command that runs, choose its folder, and do its job or its sweep there.

    Raises ConfigError in one sentence. Every job checks itself again, so jobs that a launcher
    sends to other machines are not compared with this one.
    """
    check(command)
    if command.is_sweep:
        plan = plan_sweep(command.index(), command.settings, Path(command.hydra.sweep.dir))
        if plan.is_done:
            print(f"already done: {plan.folder}")
            return
        with locked(plan.folder / LOCK_NAME):
            arguments = [*command.arguments, f"hydra.sweep.dir={_quoted(plan.folder)}"]
            sys.exit(_sweep(command, plan, arguments))
    folder = RunFolder(_run_folder(command))
    if command.settings.resume is not False and try_record(folder)[0] is not None:
        print(f"already done: {folder.record}")
        return
    with locked(folder.lock):  # before Hydra writes to the folder
        if command.settings.resume is False:
            check_new(folder)
        try:
            _start_hydra([*command.arguments, f"hydra.run.dir={_quoted(folder.path)}"])
        except OSError as error:  # Hydra could not write its files
            error.add_note(str(folder))
            raise
        finally:
            folder.discard()


def check(command: Command) -> None:
    """Raise ConfigError for a command that cannot run on this machine, or not as a sweep."""
    settings, chosen = command.settings, command.hydra.runtime.choices
    if chosen["hydra/launcher"] == "basic":
        check_machine(settings)
        for model in _other_models(command):
            check_machine(replace(settings, model=model))
    if command.is_sweep and command.trials is not None and not settings.validation_samples:
        raise ConfigError(
            f"hydra/sweeper={chosen['hydra/sweeper']} looks for the best score on validation "
            f"samples; set validation_samples to 1 or more"
        )
    if command.is_sweep:
        command.check_values()


def _run_folder(command: Command) -> Path:
    """The folder of a run: that to resume, that of hydra.run.dir, or a new one."""
    settings, folder = command.settings, Path(command.hydra.run.dir)
    is_given = any(word.startswith("hydra.run.dir=") for word in command.words)
    if settings.resume is not False:
        return folder_to_resume(settings, folder if is_given else None)
    return folder if is_given else create_folder(folder)


def _other_models(command: Command) -> Iterator[ModelSettings]:
    """Name and mixers of the presets of a sweep after the first: to compose each takes a second.

    Mixers that a preset takes from another one are left to its job. Raises ConfigError for an
    unknown preset.
    """
    lists = {each.key_or_group: each for each in command.overrides}
    if "model" in lists and "model.mixers" not in lists:
        for word in choices(lists["model"])[1:]:
            name = word.partition("=")[2]
            preset = folder_of("conf") / "model" / f"{name}.yaml"
            if not preset.is_file():
                raise ConfigError(unknown_choice("model", name))
            mixers = OmegaConf.load(preset).get("mixers", [])
            yield ModelSettings(name, [each for each in mixers if each in MIXERS])


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "\\'") + "'"


# in a job ----------------------------------------------------------------------------------


def _job(config: DictConfig) -> float | None:
    """One run; in a sweep its score on the validation samples, which an optimizer looks at."""
    facts = HydraConfig.get()
    folder = Path(facts.runtime.output_dir)
    if facts.mode == RunMode.MULTIRUN:
        return _sweep_job(config, RunFolder(folder))
    # Here too: Hydra prints a line of its own for an error that it sees.
    if code := exit_code("atlas-bench", lambda: _single_job(config, folder)):
        sys.exit(code)
    return None


def _single_job(config: DictConfig, folder: Path) -> int:
    from atlas_bench.training.errors import TrainingError

    try:
        _run(to_settings(config), folder)
    except TrainingError as error:
        print(f"atlas-bench: {error}", file=sys.stderr)
        return 1
    return 0


def _run(settings: RunSettings, folder: Path) -> None:
    from atlas_bench.runs.execute import Stopped, execute

    try:
        execute(settings, folder, ["atlas-bench", *HydraConfig.get().overrides.task])
    except Stopped as stopped:
        print(f"atlas-bench: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:  # the third Ctrl-C
        print(
            f"atlas-bench: ended at once; continue from the last checkpoint with the same command "
            f"and resume={folder}",
            file=sys.stderr,
        )
        sys.exit(128 + signal.SIGINT)


def _sweep_job(config: DictConfig, folder: RunFolder) -> float | None:
    try:
        settings = to_settings(config)
    except ConfigError as error:
        settings, mistake = None, error
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
        if settings is None:
            raise mistake
        settings.logger.group = settings.logger.group or job.sweep.name
        if folder.config.is_file():
            settings.resume = str(folder)
        _run(settings, folder.path)

    record = do_job(job, work)
    return None if record is None else read_record(record).validation_score


# a sweep -----------------------------------------------------------------------------------


def _sweep(command: Command, plan: Plan, arguments: Sequence[str]) -> int:
    """Do a sweep's jobs and say how they ended; the exit code."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    code = 1
    try:
        _start_hydra(arguments)
    except Exception as error:
        started = any(job.folder for job in refresh_index(plan.folder, command.index()).jobs)
        if isinstance(error, COMPOSE_ERRORS) and not started:
            plan.undo()
            raise ConfigError(one_sentence(error, arguments)) from error
        # A launcher's: one of its processes died, or all draws failed.
        print(f"atlas-bench: the sweep ended early: {cause(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as error:
        code = int(error.code)
    finally:
        signal.signal(signal.SIGTERM, before)
    index = refresh_index(plan.folder, command.index())
    done, failed = index.of(DONE), index.of(FAILED)
    print(f"sweep   {plan.folder}: {len(done)} of {len(index.jobs)} jobs done", flush=True)
    for job in failed:
        print(f"atlas-bench: job {job.number} failed: {job.reason}", file=sys.stderr)
    if len(done) == len(index.jobs):
        return 0
    left = len(index.jobs) - len(done) - len(failed)
    retries = command.trials is None
    does = "does them and no others" if retries else "does those left, no draw that failed"
    print(
        f"atlas-bench: {len(failed)} failed and {left} left; the same command with resume=true "
        f"{does}",
        file=sys.stderr,
    )
    return code
