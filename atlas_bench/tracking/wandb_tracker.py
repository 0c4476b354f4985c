"""The tracker for Weights & Biases: offline by default, and unable to end a run.

wandb is imported only when a run starts. Any failure in it is caught, reported in one sentence, and
turns logging off. The record on disk has the same numbers.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any

import psutil

from atlas_bench.tracking import Tracker

log = logging.getLogger(__name__)

INIT_SECONDS = 30.0  # how long an unreachable server may delay a run, once
FINISH_SECONDS = 120  # and its end; the rest stays on disk for `wandb sync`
LIMIT_SECONDS = 150  # for any call: wandb waits for its own process without a limit
LONGEST_REASON = 160  # characters of wandb's own message
ID_NAME = "wandb_id.txt"
# These keep files in the run's folder that wandb would put into the home folder.
FOLDER_VARIABLES = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache"}


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """``method``; if it fails, that is reported once and nothing is logged from there."""

    @wraps(method)
    def guarded(self: WandbTracker, *arguments: Any, **options: Any) -> None:
        started, watch = time.monotonic(), threading.Timer(LIMIT_SECONDS, _end_service)
        watch.daemon = True
        watch.start()
        try:
            method(self, *arguments, **options)
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())[:LONGEST_REASON]
            if time.monotonic() - started >= LIMIT_SECONDS:
                reason = f"no answer from wandb's process in {LIMIT_SECONDS} seconds"
            log.warning(
                "W&B logging is off from here (%s failed: %s); the run continues and its record "
                "has the same numbers",
                method.__name__,
                reason.rstrip("."),
            )
            self._abandon()
        finally:
            watch.cancel()

    return guarded


def _end_service() -> None:
    """Kill wandb's process, which may hang; a call that waits for it then fails."""
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if process.name().startswith("wandb"):
                process.kill()


class WandbTracker(Tracker):
    """Logs one run to W&B.

    ``mode``: ``offline`` writes files for a later `wandb sync` and does not use the network,
    ``online`` uploads during the run, ``disabled`` does nothing and does not import wandb.
    """

    def __init__(self, mode: str = "offline", project: str = "atlas-bench") -> None:
        super().__init__(mode, project)
        self._run: Any = None
        self._environment: dict[str, str | None] = {}

    @property
    def active(self) -> bool:
        """Whether calls still reach W&B."""
        return self._run is not None

    @_guarded
    def start(
        self,
        config: Mapping[str, Any],
        name: str,
        directory: Path,
        *,
        tags: Sequence[str] = (),
        **sorting: str | None,
    ) -> None:
        """Begin a W&B run whose files go to ``directory``/wandb.

        A directory has one W&B run: resuming the run in it continues the same W&B run.
        """
        if self.mode == "disabled" or self.active:
            return
        directory = Path(directory).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        self._set_environment(directory / "wandb")
        import wandb

        self._run = wandb.init(
            project=self.project,
            name=name,
            id=_run_id(directory),
            resume="allow",
            tags=list(tags),
            **sorting,
            dir=str(directory),
            mode=self.mode,
            config=dict(config),
            settings=_settings(wandb, offline=self.mode == "offline"),
        )

    @_guarded
    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if self.active:
            self._run.log(dict(metrics), step=step)

    @_guarded
    def finish(
        self,
        record_path: Path,
        table_rows: Sequence[Mapping[str, Any]],
        plots: Sequence[Path] = (),
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """The scores are a table and a summary; they, the plots and the record are an artifact."""
        if not self.active:
            return
        import wandb

        results: dict[str, Any] = {path.stem: wandb.Image(str(path)) for path in plots}
        artifact = wandb.Artifact(f"results-{self._run.id}", type="results")
        if table_rows:
            columns = list(table_rows[0])
            data = [[row.get(column) for column in columns] for row in table_rows]
            results["scores"] = wandb.Table(columns=columns, data=data)
            artifact.add(wandb.Table(columns=columns, data=data), "scores")
        if results:
            self._run.log(results)
        self._run.summary.update({**facts, **_by_name(table_rows)})
        for path in (record_path, *plots):
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)
        self._close(0)

    @_guarded
    def close(self, *, failed: bool = False) -> None:
        if self.active:
            self._close(1 if failed else 0)

    def _close(self, exit_code: int) -> None:
        """End the W&B run and wandb's service process."""
        import wandb

        run, self._run = self._run, None
        try:
            run.finish(exit_code=exit_code)
        finally:
            wandb.teardown()  # else its service process would run until Python exits
            self._restore_environment()

    def _abandon(self) -> None:
        """After a failure: end the run and wandb's process, and ignore further failures."""
        try:
            if self._run is not None:
                self._close(1)
            elif (wandb := sys.modules.get("wandb")) is not None:
                wandb.teardown()  # a start that failed may have left its service process
        except (Exception, SystemExit) as error:
            log.debug("closing W&B failed too: %s", error)
        finally:
            self._run = None
            self._restore_environment()

    def _set_environment(self, folder: Path) -> None:
        variables = {name: str(folder / part) for name, part in FOLDER_VARIABLES.items()}
        variables |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        for name, value in variables.items():
            self._environment[name] = os.environ.get(name)
            os.environ[name] = value

    def _restore_environment(self) -> None:
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._environment = {}


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Every score under its own name, and the mean of each metric, to sort runs by."""
    summary: dict[str, float] = {}
    metrics: dict[str, list[float]] = {}
    for row in rows:
        summary[f"{row['metric']}/{row['subtask']}/{row['length_name']}"] = row["value"]
        metrics.setdefault(row["metric"], []).append(row["value"])
    return summary | {f"{metric}/mean": mean(values) for metric, values in metrics.items()}


def _run_id(directory: Path) -> str:
    """The id of the directory's W&B run, drawn when the first one begins."""
    path = directory / ID_NAME
    if not path.is_file():
        path.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _settings(wandb: Any, *, offline: bool) -> Any:
    """No prompt, no captured console, no copied code; offline no facts of the machine either."""
    options = {
        "silent": True,  # also keeps wandb from asking for a key at the terminal
        "console": "off",
        "disable_code": True,
        "save_code": False,
        "disable_git": True,
        "disable_job_creation": True,
        "reinit": "finish_previous",  # a job of a sweep that failed may have left its run open
        "init_timeout": INIT_SECONDS,
        "finish_timeout": FINISH_SECONDS,
        "x_save_requirements": False,
        # For facts of the machine wandb asks a cloud's metadata address, not allowed offline.
        "x_disable_meta": offline,
        "x_disable_stats": offline,
        "x_disable_machine_info": offline,
    }
    known = wandb.Settings.model_fields  # an older wandb lacks some
    return wandb.Settings(**{name: value for name, value in options.items() if name in known})
