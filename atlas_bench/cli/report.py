"""The command `atlas-bench-report`: compare all runs found in some folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from atlas_bench.artifacts.records import RecordError, find_records, read_record, why_failed
from atlas_bench.artifacts.schema import Record
from atlas_bench.cli.entry import exit_code
from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import nearest, printable
from atlas_bench.report.published import published_names, published_table
from atlas_bench.report.tables import rich_table

NAME = "atlas-bench-report"
WIDTH_OF_FILES = 160  # columns, if the output is not a terminal
LIST = "list"
NOT_FINISHED = "unfinished or still going on"

DESCRIPTION = """\
Compare all finished runs found below some folders: models down, lengths across. Or put them beside
a table of the papers.

Runs that differ only in the seed are merged to mean and standard deviation. Runs that were measured
or set up differently get rows of their own and a note that names the differences.
"""
EPILOG = """\
examples
  atlas-bench-report outputs/                      compare everything
  atlas-bench-report outputs/2025-01-31 --output results/january
  atlas-bench-report outputs/ ../other/outputs --metric published_metric
  atlas-bench-report outputs/ --best               only the best settings of each grid
  atlas-bench-report --table table3_s_niah outputs/
  atlas-bench-report --table list                  list the tables of the papers

files written to the output folder
  report.html    everything on one page that loads nothing: tables sort, configs unfold
  table.md       the tables in Markdown, with the runs they were made from
  table.tex      the tables for a LaTeX document that uses booktabs
  scores.csv     one score per line, with its metric and all fields of its record
  accuracy.png   accuracy over length, also as accuracy.svg. Likewise, if the records have them:
                 depths (accuracy over length and depth of the answer), state (accuracy over
                 state size), loss (over tokens trained), cost (speed and memory over length); in
                 one folder per task if there are several
  With --table TABLE: TABLE.md, TABLE.tex and TABLE.csv instead.

Exit codes: 0 done, 2 bad input. A record that cannot be read is named on stderr and left out.
"""


class _Parser(argparse.ArgumentParser):
    """Bad arguments end in one sentence, like all other bad input."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {NAME} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Console script; returns the exit code."""
    return exit_code(NAME, lambda: _report(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=NAME,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("directories", nargs="*", metavar="DIR", type=Path, help="folders to look for runs in")
    add(
        "--output",
        metavar="DIR",
        type=Path,
        help="folder for files (default: report/ in first DIR)",
    )
    add(
        "--metric",
        help="of tables and plots (default: the first of each subtask); not with --table",
    )
    add(
        "--best", action="store_true", help="only the settings that validation chooses of each grid"
    )
    add("--table", metavar="TABLE", help="table of the papers to put the runs beside, or list")
    return parser


def _report(arguments: argparse.Namespace) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    if arguments.table == LIST:
        for table in map(published_table, published_names()):
            console.print(Text(f"{table.name:16} {table.title} ({table.paper})"), soft_wrap=True)
        return 0
    _check(arguments)
    # Half a second of imports that the other paths can do without.
    from atlas_bench.report.assemble import beside_paper, comparing_runs

    records, unfinished = _read(arguments.directories)
    folder = arguments.output or arguments.directories[0] / "report"
    if arguments.table is None:
        report = comparing_runs(records, unfinished, folder, arguments.metric, best=arguments.best)
    else:
        report = beside_paper(records, arguments.table)
    for table in report.shown:
        console.print(rich_table(table))
    for path in report.write(folder):
        # As plain text, so that a long path is not broken and can be copied.
        console.print(Text(printable(str(path))), soft_wrap=True)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise ConfigError in one sentence for arguments that do not go together."""
    table, metric, names = arguments.table, arguments.metric, published_names()
    if table not in (None, *names):
        raise ConfigError(
            f"--table {table} is not one of {', '.join(names)}{nearest(table, names)}; "
            f"--table {LIST} describes them"
        )
    if table is not None and metric is not None:
        raise ConfigError(
            f"--metric {metric} is not for --table {table}, which shows the metrics of its paper; "
            f"remove one of the two"
        )
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise ConfigError(f"--output {arguments.output} is not a folder")
    if not arguments.directories:
        raise ConfigError(f"the following arguments are required: DIR; see {NAME} --help")


def _read(directories: Sequence[Path]) -> tuple[list[Record], dict[Path, str]]:
    """All readable records, and the folders without one; stderr names what is left out."""
    found = find_records(*directories)
    records = []
    for path in found.records:
        try:
            records.append(read_record(path))
        except RecordError as error:
            _complain(f"left out: {error}")
    reasons = {folder: why_failed(folder) or NOT_FINISHED for folder in found.unfinished}
    for folder, reason in reasons.items():
        if reason != NOT_FINISHED:
            _complain(f"failed: {folder}: {reason}")
    if unfinished := list(reasons.values()).count(NOT_FINISHED):
        runs = "1 run" if unfinished == 1 else f"{unfinished} runs"
        _complain(f"left out: {runs} without a record, {NOT_FINISHED}")
    if not records:
        missing = "no record that can be read" if found.records else "no record"
        raise ConfigError(f"{missing} found in {', '.join(map(str, directories))}")
    return records, reasons


def _complain(message: str) -> None:
    print(f"{NAME}: {printable(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
