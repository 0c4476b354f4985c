"""The command `atlas-bench-sweep`: how a sweep's jobs ended, and the best settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from atlas_bench.artifacts.folder import RECORD_NAME, SWEEP_NAME
from atlas_bench.artifacts.records import RecordError, read_record
from atlas_bench.artifacts.schema import Record
from atlas_bench.cli.entry import exit_code
from atlas_bench.config.errors import ConfigError
from atlas_bench.console import plain_console
from atlas_bench.naming import printable
from atlas_bench.report.selection import SettingsGrid, best_settings
from atlas_bench.report.tuned import write_tuned
from atlas_bench.sweeps.index import DONE, Index, read_index

WIDTH_OF_FILES = 160  # columns, if the output is not a terminal

DESCRIPTION = """\
Show the jobs of a sweep and the best settings for each model, scale and task.

The best settings have the best mean validation score over seeds (validation_samples=N). The test
scores are printed beside it and decide nothing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Console script; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="atlas-bench-sweep",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a sweep's folder")
    parser.add_argument(
        "--write",
        metavar="FOLDER",
        type=Path,
        help="write what validation chose for each model to FOLDER, usually conf/tuned",
    )
    given = parser.parse_args(argv)
    return exit_code("atlas-bench-sweep", lambda: _show(given.directory, given.write))


def _show(folder: Path, write_to: Path | None) -> None:
    index = read_index(folder)  # and not written: the folder may be read-only
    if index is None:
        raise RecordError(f"{folder} is not a sweep's folder: it has no {SWEEP_NAME}")
    records = {job.number: read_record(folder / job.folder / RECORD_NAME) for job in index.of(DONE)}
    console = plain_console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(_table_of_jobs(index, records))
    grids = best_settings(records.values())
    for grid in grids:
        console.print(_sentence_on(grid), soft_wrap=True, highlight=False)
    if write_to is None:
        return
    if not write_to.is_dir():
        raise ConfigError(f"--write {write_to} is not a folder")
    words = [word for job in index.jobs for word in job.overrides or []]
    given = {word.partition("=")[0].lstrip("+") for word in words}
    for grid in grids:
        console.print(str(write_tuned(grid, given, write_to)), soft_wrap=True, highlight=False)


def _table_of_jobs(index: Index, records: dict[int, Record]) -> Table:
    """One row for each job: number, state, own overrides, validation score, reason of a failure."""
    lists = [set(job.overrides) for job in index.jobs if job.overrides]
    common = set.intersection(*lists) if len(lists) > 1 else set()
    table = Table(
        title=f"{len(index.of(DONE))} of {len(index.jobs)} jobs done", title_justify="left"
    )
    for column in ("job", "state", "overrides", "validation", "reason"):
        table.add_column(column)
    for job in index.jobs:
        own = [word for word in job.overrides or [] if word not in common]
        score = records[job.number].validation_score if job.number in records else None
        shown = "" if score is None else f"{score:.4f}"
        row = (str(job.number), job.state, " ".join(own), shown, job.reason or "")
        table.add_row(*map(printable, row))
    return table


def _sentence_on(grid: SettingsGrid) -> str:
    """The best settings for one model, scale and task, with their scores."""
    run = grid.best[0]
    settings = " ".join(f"{key}={value}" for key, value in grid.settings.items()) or "one point"
    seeds = "1 seed" if len(grid.best) == 1 else f"{len(grid.best)} seeds"
    tested = [score for record in grid.best for score in record.scores]
    metric = tested[0].metric if tested else None
    values = [score.value for score in tested if score.metric == metric]
    test = f"; test {metric} {sum(values) / len(values):.4f}" if values else ""
    return (
        f"best of {grid.points} for {run.model} {run.scale} on {run.task}: {settings} "
        f"(validation {grid.score:.4f}, {seeds}{test})"
    )


if __name__ == "__main__":
    sys.exit(main())
