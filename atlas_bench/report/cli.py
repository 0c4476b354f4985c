"""The command `atlas-bench-report`: compare all runs found in some folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from atlas_bench.naming import nearest
from atlas_bench.report.records import (
    Record,
    RecordError,
    find_records,
    read_record,
    replacing,
)
from atlas_bench.report.tables import markdown_tables, rich_tables, scores_csv

NAME = "atlas-bench-report"
BAD_INPUT = 2
WIDTH_OF_FILES = 160  # columns, where the output is no terminal

DESCRIPTION = """\
Compare all finished runs found below some folders: models down, lengths across.

Runs that differ only in the seed are merged to mean and standard deviation; runs measured or set
up differently get rows of their own and a note that says in what they differ.
"""
EPILOG = """\
examples
  atlas-bench-report outputs/                      compare everything
  atlas-bench-report outputs/2025-01-31 --output results/january
  atlas-bench-report outputs/ ../other/outputs --metric published_metric

files written to the output folder
  table.md       the tables in Markdown, with the runs they were made from
  scores.csv     every score of every run and metric with all fields of its record, one a line
  accuracy.png   accuracy over length; accuracy.svg is the same

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
        "directories", nargs="+", metavar="DIR", type=Path, help="folders to look for runs in"
    )
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="where files go (default: report/ in first DIR)"
    )
    parser.add_argument(
        "--metric",
        help="of the table and the plot (default: the first that the first run has)",
    )
    return parser


def _report(arguments: argparse.Namespace) -> int:
    directories = arguments.directories
    records = _records(directories)
    metrics = list(dict.fromkeys(score.metric for record in records for score in record.scores))
    if not metrics:
        raise UsageError(f"none of the {len(records)} runs found has a score")
    metric = arguments.metric or metrics[0]
    if metric not in metrics:
        raise UsageError(
            f"--metric {metric} is not one of {', '.join(metrics)}, which the runs found have"
            f"{nearest(metric, metrics)}"
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_OF_FILES)
    for table in rich_tables(records, metric):
        console.print(table)
    folder = arguments.output or directories[0] / "report"
    try:
        written = _write(records, folder, metric)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror or error}") from error
    for path in written:
        # As plain text, so that a long path is not broken and can be copied.
        console.print(Text(str(path)), soft_wrap=True)
    return 0


def _records(directories: Sequence[Path]) -> list[Record]:
    """All records that can be read; what cannot, or is not there yet, is said on stderr."""
    found = find_records(*directories)
    records = []
    for path in found.records:
        try:
            records.append(read_record(path))
        except RecordError as error:
            _complain(f"left out: {error}")
    if found.unfinished:
        runs = "1 run" if len(found.unfinished) == 1 else f"{len(found.unfinished)} runs"
        _complain(f"left out: {runs} without a record, unfinished or still going on")
    if not records:
        what = "no record" if not found.records else "no record that can be read"
        raise UsageError(f"{what} found in {', '.join(map(str, directories))}")
    return records


def _write(records: Sequence[Record], folder: Path, metric: str) -> list[Path]:
    """table.md, scores.csv and the plots, each in one step; their paths."""
    from atlas_bench.report.plots import plot_accuracy  # half a second that --help can do without

    texts = {"table.md": markdown_tables(records, metric), "scores.csv": scores_csv(records)}
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    plots = [folder / "accuracy.png", folder / "accuracy.svg"]
    for plot in plots:
        plot_accuracy(records, plot, metric=metric)
    return [*(folder / name for name in texts), *plots]


def _complain(message: str) -> None:
    print(f"{NAME}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
