"""What a report consists of, from the records of runs: the tables shown and the files written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure

from atlas_bench.artifacts.folder import (
    CONFIG_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    RECORD_NAME,
    replacing,
)
from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import Record
from atlas_bench.naming import nearest
from atlas_bench.report.comparison import compare
from atlas_bench.report.comparison_tables import comparison_csv, comparison_tables
from atlas_bench.report.learning import learning_tables
from atlas_bench.report.plots.figures import Plot, plots_of
from atlas_bench.report.plots.style import page_svg, save
from atlas_bench.report.published import published_names, published_table
from atlas_bench.report.render import render
from atlas_bench.report.row_groups import order_of
from atlas_bench.report.selection import describe_grids, find_grids, without_grids
from atlas_bench.report.tables import (
    Table,
    TableEntry,
    main_metrics,
    metric_names,
    number_entry,
    score_tables,
    scores_csv,
    short_count,
)

FILES = (RECORD_NAME, CONFIG_NAME, ".hydra/config.yaml", METRICS_NAME, PREDICTIONS_NAME)


@dataclass
class Report:
    """Tables to show, and what to write: texts and figures by the names of their files."""

    shown: list[Table]
    texts: dict[str, str]
    figures: dict[str, Figure] = field(default_factory=dict)

    def write(self, folder: Path) -> list[Path]:
        """Write every file in one step and return their paths. Raises OSError if it cannot."""
        for name, text in self.texts.items():
            with replacing(folder / name) as temporary:
                # A folder's name need not be UTF-8.
                temporary.write_text(text, encoding="utf-8", errors="replace")
        for name, figure in self.figures.items():
            save(figure, folder / name)
        return [folder / name for name in (*self.texts, *self.figures)]


@dataclass(frozen=True)
class TaskResults:
    """One task's tables and plots; ``other_tables`` are folded away."""

    task: str
    tables: list[Table]
    other_tables: list[Table]
    plots: list[Plot]


def beside_paper(records: Sequence[Record], name: str) -> Report:
    """One of the papers' tables with ours in it.

    Raises RecordError in one sentence if no run has a score of it.
    """
    comparison = compare(published_table(name), records)
    shown = comparison_tables(comparison)
    if not shown:
        raise RecordError(f"none of the {len(records)} runs found has a score of {name}")
    texts = {
        f"{name}.md": render("tables.md", tables=shown),
        f"{name}.tex": render("tables.tex", tables=shown),
        f"{name}.csv": comparison_csv(comparison),
    }
    return Report(shown, texts)


def comparing_runs(
    all_records: Sequence[Record],
    unfinished: Mapping[Path, str],
    folder: Path,
    metric: str | None = None,
    *,
    best: bool = False,
) -> Report:
    """Tables, plots and the page of all tasks, to be written to ``folder``.

    They show ``metric``, or the first metric of each subtask. With ``best`` only the settings that
    validation chooses are left of each grid of training settings. ``unfinished``: folders of runs
    without a record, and why.
    Raises RecordError in one sentence if there is no score, or none of ``metric``.
    """
    grids = [grid for grid in find_grids(all_records) if grid.best] if best else []
    records = without_grids(all_records, grids)
    records = sorted([*records, *(each for grid in grids for each in grid.best)], key=order_of)
    results = []
    for task, of_task in _by_task(records, metric).items():
        results.append(_results(task, of_task, metric))
        chosen = [grid for grid in grids if grid.records[0].task == task]
        results[-1].tables[-1].notes += describe_grids(chosen)
    shown = [table for each in results for table in each.tables]
    learning = learning_tables(records)
    comparisons = [compare(published_table(name), all_records) for name in published_names()]
    beside = [table for each in comparisons if each.measured for table in comparison_tables(each)]
    texts = {
        "report.html": render(
            "page.html",
            results=results,
            learning=learning,
            beside_papers=beside,
            records=records,
            runs=_runs(records),
            unfinished=unfinished,
            model_first=_with_model_first,
            svg=page_svg,
            links=partial(_links, folder=folder),
        ),
        "table.md": render("tables.md", tables=[*shown, *learning], runs=records),
        "table.tex": render("tables.tex", tables=shown),
        "scores.csv": scores_csv(records),
    }
    figures = {
        f"{'' if len(results) == 1 else f'{each.task}/'}{plot.name}.{suffix}": plot.figure
        for each in results
        for plot in each.plots
        for suffix in ("png", "svg")
    }
    return Report([*shown, *learning], texts, figures)


def _results(task: str, records: Sequence[Record], metric: str | None) -> TaskResults:
    metrics = main_metrics(records) if metric is None else [metric]
    others = [name for name in metric_names(records) if name not in metrics]
    tables, other_tables = (
        [table for name in names for table in score_tables(records, name)]
        for names in (metrics, others)
    )
    return TaskResults(task, tables, other_tables, plots_of(records, metrics))


def _by_task(records: Sequence[Record], metric: str | None) -> dict[str, list[Record]]:
    """Records with scores, of ``metric`` if one is given, by their task."""
    metrics = metric_names(records)
    if not metrics:
        raise RecordError(f"none of the {len(records)} runs found has a score")
    if metric is not None and metric not in metrics:
        raise RecordError(
            f"--metric {metric} is not one of {', '.join(metrics)}, which the runs found have"
            f"{nearest(metric, metrics)}"
        )
    by_task: dict[str, list[Record]] = {}
    for record in records:
        if any(metric in (None, score.metric) for score in record.scores):
            by_task.setdefault(record.task, []).append(record)
    return by_task


# the page ----------------------------------------------------------------------------------


def _with_model_first(table: Table) -> Table:
    """The model in the first column, which stays in view; a single subtask goes to the title."""
    subtasks = {row[0].text for row in table.rows}
    title = table.title if len(subtasks) > 1 else f"{table.title}, {table.rows[0][0].text}"
    first = [1, 0] if len(subtasks) > 1 else [1]
    headings, *rows = (
        [*(cells[at] for at in first), *cells[2:]] for cells in (table.headings, *table.rows)
    )
    return Table(title, headings, len(first), [rows], table.notes)


def _runs(records: Sequence[Record]) -> Table:
    headings = [
        *("run", "scale", "task", "seed", "parameters", "state", "tokens trained"),
        *("training, s", "all, s"),
    ]
    rows = [
        [
            TableEntry(record.name, link=f"#config{index}"),
            *(TableEntry(record.scale), TableEntry(record.task)),
            number_entry(record.seed, str),
            number_entry(record.parameters, short_count),
            number_entry(record.state_bytes, short_count),
            number_entry(record.train_tokens, short_count),
            number_entry(record.train_seconds, "{:,.0f}".format),
            number_entry(record.wall_seconds, "{:,.0f}".format),
        ]
        for index, record in enumerate(records)
    ]
    return Table("All runs", headings, 3, [rows])


def _links(record: Record, folder: Path) -> list[tuple[str, str]]:
    """The existing files of the run, with links relative to the page's ``folder``."""
    run = record.path.parent
    relative = quote(os.fsencode(Path(os.path.relpath(run, folder)).as_posix()))
    return [(name, f"{relative}/{quote(name)}") for name in FILES if (run / name).is_file()]
