"""What a report consists of, from the records of runs: what is shown, and what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from atlas_bench.artifacts.folder import replacing
from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import Record
from atlas_bench.naming import nearest
from atlas_bench.report.comparison import compare
from atlas_bench.report.comparison_tables import comparison_csv, comparison_sheets
from atlas_bench.report.html import Part, page
from atlas_bench.report.plots import plots_of, save
from atlas_bench.report.published import published_names, published_table
from atlas_bench.report.rows import order_of
from atlas_bench.report.selection import Grid, describe_grids, find_grids, outside
from atlas_bench.report.table_formats import Sheet, latex_sheet, markdown_sheet
from atlas_bench.report.tables import (
    main_metrics,
    markdown_runs,
    metrics_of,
    scores_csv,
    sheets,
)


@dataclass(frozen=True)
class Runs:
    """Records, and the folders of runs that have none, with the reason."""

    records: list[Record]
    unfinished: dict[Path, str]


@dataclass
class Report:
    """Tables to show, and what to write: texts and figures by the names of their files."""

    shown: list[Sheet]
    texts: dict[str, str]
    figures: dict[str, Figure] = field(default_factory=dict)

    def write(self, folder: Path) -> list[Path]:
        """Write every file in one step; their paths. Raises OSError where that cannot be done."""
        for name, text in self.texts.items():
            with replacing(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        for name, figure in self.figures.items():
            save(figure, folder / name)
        return [folder / name for name in (*self.texts, *self.figures)]


# beside a paper ----------------------------------------------------------------------------


def beside_paper(runs: Runs, name: str) -> Report:
    """One of the papers' tables with ours in it.

    Raises RecordError in one sentence where no run has a score of it.
    """
    comparison = compare(published_table(name), runs.records)
    shown = comparison_sheets(comparison)
    if not shown:
        raise RecordError(f"none of the {len(runs.records)} runs found has a score of {name}")
    return Report(
        shown,
        {
            f"{name}.md": "\n".join(map(markdown_sheet, shown)),
            f"{name}.tex": "\n".join(map(latex_sheet, shown)),
            f"{name}.csv": comparison_csv(comparison),
        },
    )


# all runs ----------------------------------------------------------------------------------


def comparing_runs(
    runs: Runs, folder: Path, metric: str | None = None, *, best: bool = False
) -> Report:
    """Tables, plots and the page of all tasks, to be written to ``folder``; of one ``metric``, or
    of the first of each subtask; with ``best``, of grids of training settings the point alone that
    validation chooses.

    Raises RecordError in one sentence where there is no score, or none of ``metric``.
    """
    grids = [grid for grid in find_grids(runs.records) if grid.choice] if best else []
    everything, chosen = runs, [record for grid in grids for record in grid.best]
    runs = Runs([*outside(runs.records, grids), *chosen], runs.unfinished)
    parts = [
        _part(task, records, metric, [grid for grid in grids if grid.records[0].task == task])
        for task, records in _by_task(runs, metric).items()
    ]
    shown = [sheet for part in parts for sheet in part.sheets]
    tables = map(published_table, published_names())
    comparisons = [compare(table, everything.records) for table in tables]
    compared = [sheet for each in comparisons if each.measured for sheet in comparison_sheets(each)]
    texts = {
        "report.html": page(parts, compared, runs.records, runs.unfinished, folder),
        "table.md": "\n".join([*map(markdown_sheet, shown), markdown_runs(runs.records)]),
        "table.tex": "\n".join(map(latex_sheet, shown)),
        "scores.csv": scores_csv(runs.records),
    }
    figures = {
        f"{'' if len(parts) == 1 else f'{part.name}/'}{plot.name}.{kind}": plot.figure
        for part in parts
        for plot in part.plots
        for kind in ("png", "svg")
    }
    return Report(shown, texts, figures)


def _by_task(runs: Runs, metric: str | None) -> dict[str, list[Record]]:
    """Records with scores, of ``metric`` where one is asked for, by their task."""
    metrics = metrics_of(runs.records)
    if not metrics:
        raise RecordError(f"none of the {len(runs.records)} runs found has a score")
    if metric is not None and metric not in metrics:
        raise RecordError(
            f"--metric {metric} is not one of {', '.join(metrics)}, which the runs found have"
            f"{nearest(metric, metrics)}"
        )
    found: dict[str, list[Record]] = {}
    for record in sorted(runs.records, key=order_of):
        if any(metric in (None, score.metric) for score in record.scores):
            found.setdefault(record.task, []).append(record)
    return found


def _part(task: str, records: list[Record], metric: str | None, grids: Sequence[Grid]) -> Part:
    metrics = main_metrics(records) if metric is None else [metric]
    others = [name for name in metrics_of(records) if name not in metrics]
    shown = [sheet for name in metrics for sheet in sheets(records, name)]
    shown[-1].notes += describe_grids(grids)
    return Part(
        task,
        sheets=shown,
        others=[sheet for name in others for sheet in sheets(records, name)],
        plots=plots_of(records, metrics),
    )
