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
from atlas_bench.naming import nearest
from atlas_bench.report.published import published_names, published_table
from atlas_bench.report.table_formats import rich_sheet

NAME = "atlas-bench-report"
BAD_INPUT = 2
WIDTH_OF_FILES = 160  # columns, where the output is no terminal
LIST = "list"
NOT_FINISHED = "unfinished or still going on"

DESCRIPTION = """\
Compare all finished runs found below some folders: models down, lengths across; or put them beside
a table of the papers.

Runs that differ only in the seed are merged to mean and standard deviation; runs measured or set
up differently get rows of their own and a note that says in what they differ.
"""
EPILOG = """\
examples
  atlas-bench-report outputs/                      compare everything
  atlas-bench-report outputs/2025-01-31 --output results/january
  atlas-bench-report outputs/ ../other/outputs --metric published_metric
  atlas-bench-report outputs/ --best               of a grid of training settings the best alone
  atlas-bench-report --table table3_s_niah outputs/
  atlas-bench-report --table list                  which tables of the papers there are

files written to the output folder
  report.html    all of it on one page that loads nothing: tables sort, configs unfold
  table.md       the tables in Markdown, with the runs they were made from
  table.tex      the tables for a LaTeX document that uses booktabs
  scores.csv     every score of every run and metric with all fields of its record, one a line
  accuracy.png   accuracy over length; accuracy.svg is the same. Likewise, where the records have
                 them: depths (accuracy over length and depth of the answer), state (accuracy over
                 state size), loss (over tokens trained), cost (speed and memory over length); in
                 one folder for each task where there are several
  With --table TABLE: TABLE.md, TABLE.tex and TABLE.csv instead.

Exit codes: 0 done, 2 bad input. A record that cannot be read is named on stderr and left out.
"""


class UsageError(ValueError):
    """What was asked cannot be done; the message is one sentence."""


class _Parser(argparse.ArgumentParser):
    """Bad arguments end in one sentence, like all other bad input."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {NAME} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Console script; returns the exit code."""
    try:
        return _report(_parser().parse_args(argv))
    except (UsageError, RecordError) as error:
        _complain(str(error))
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=NAME,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories", nargs="*", metavar="DIR", type=Path, help="folders to look for runs in"
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="where files go (default: report/ in first DIR)"
    )
    parser.add_argument(
        "--metric",
        help="of the tables and plots (default: the first that each subtask has); not with --table",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="of a grid of training settings only the point that validation chooses, as in --table",
    )
    parser.add_argument(
        "--table", metavar="TABLE", help="of the papers, to put the runs beside; list shows which"
    )
    return parser


def _report(arguments: argparse.Namespace) -> int:
    # Half a second of imports that --help can do without.
    from atlas_bench.report.assemble import Runs, beside_paper, comparing_runs

    directories, console = arguments.directories, Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    if arguments.table == LIST:
        for table in map(published_table, published_names()):
            console.print(Text(f"{table.name:16} {table.title} ({table.paper})"), soft_wrap=True)
        return 0
    if arguments.table is not None and arguments.table not in published_names():
        tables = ", ".join(published_names())
        raise UsageError(
            f"--table {arguments.table} is not one of {tables}"
            f"{nearest(arguments.table, published_names())}; --table {LIST} says what they are"
        )
    if arguments.table is not None and arguments.metric is not None:
        raise UsageError(
            f"--metric {arguments.metric} is not for --table {arguments.table}, which shows the "
            f"metrics of its paper; leave one of the two out"
        )
    if not directories:
        raise UsageError(f"the following arguments are required: DIR; see {NAME} --help")
    found = Runs(*_read(directories))
    folder = arguments.output or directories[0] / "report"
    if arguments.table is None:
        report = comparing_runs(found, folder, arguments.metric, best=arguments.best)
    else:
        report = beside_paper(found, arguments.table)
    for sheet in report.shown:
        console.print(rich_sheet(sheet))
    try:
        written = report.write(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror or error}") from error
    for path in written:
        # As plain text, so that a long path is not broken and can be copied.
        console.print(Text(str(path)), soft_wrap=True)
    return 0


def _read(directories: Sequence[Path]) -> tuple[list[Record], dict[Path, str]]:
    """All records that can be read, and folders without one; what is left out is said on stderr."""
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
        what = "no record" if not found.records else "no record that can be read"
        raise UsageError(f"{what} found in {', '.join(map(str, directories))}")
    return records, reasons


def _complain(message: str) -> None:
    print(f"{NAME}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
