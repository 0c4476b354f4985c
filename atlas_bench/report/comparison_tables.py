"""A comparison with a paper as tables: the paper's numbers, ours under them, the difference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product

from atlas_bench.report.comparison import (
    BASELINE,
    DIFFERS,
    ON_FIXTURE,
    STANDS_IN,
    Comparison,
    OurRow,
    order_kept,
)
from atlas_bench.report.published import Column, PublishedRow
from atlas_bench.report.row_groups import tuning_notes
from atlas_bench.report.tables import (
    NOT_LEARNT_LEGEND,
    NOTHING,
    Table,
    TableEntry,
    csv_text,
    estimate_entry,
    model_entry,
    number_entry,
)

LEGEND = {
    DIFFERS: "not the paper's protocol, so no replication; what differs is said below",
    ON_FIXTURE: "made-up fixture data, which says nothing about a model; no difference is given",
    BASELINE: "the baseline alone: the score is the mean over it and all changes to it",
    STANDS_IN: "another measure stands in ({}); only the order of the models can be compared",
}
CSV_COLUMNS = (
    *("table", "column", "model", "preset", "source", "paper", "scale", "seeds", "samples"),
    *("ours", "low", "high", "difference", "marks", "learnt", "differs"),
)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """One table for each group of columns with a score of ours; none if nothing is ours.

    Sections: each model of the paper that we have too, with ours and the difference below it; the
    paper's other models; ours that the paper does not have; how much of the order is kept.
    """
    scored = {name for row in comparison.rows for name in row.scores}
    tables, missing = [], []
    for group, columns in groupby(comparison.table.columns, key=lambda column: column.group):
        columns = list(columns)
        if any(column.name in scored for column in columns):
            tables.append(_table(comparison, group, columns))
        else:
            missing.append(group)
    if tables:  # the notes hold for all of them
        tables[-1].notes += _notes(comparison)
        if missing:
            tables[-1].notes.append(f"No run found has a score of {', '.join(missing)}.")
    return tables


def _table(comparison: Comparison, group: str, columns: Sequence[Column]) -> Table:
    about, names = comparison.table, {column.name for column in columns}
    rows = [row for row in comparison.rows if names & set(row.scores)]
    shared, papers = [], []
    for published in about.rows:
        section = [_paper_entries(published, columns)]
        for row in rows:
            if row.preset == published.preset:
                section.append(_our_entries(row, columns))
                section += _difference_rows(row, columns)
        if len(section) > 1:
            shared.append(section)
        else:
            papers += section
    others = [_our_entries(row, columns) for row in rows if row.preset not in about.presets]
    sections = [*shared, papers, others, _order_rows(comparison, columns)]
    return Table(
        f"{about.title} ({about.paper})" + (f", {group}" if group else ""),
        ["model", *(column.heading for column in columns)],
        texts=1,
        sections=[section for section in sections if section],
    )


def _paper_entries(published: PublishedRow, columns: Sequence[Column]) -> list[TableEntry]:
    return [
        TableEntry(f"{published.model}, paper"),
        *(
            number_entry(published.values.get(c.name), f"{{:.{c.decimals}f}}".format)
            for c in columns
        ),
    ]


def _our_entries(row: OurRow, columns: Sequence[Column]) -> list[TableEntry]:
    entries = [model_entry(f"{row.group.name}, ours", row.group)]
    for column in columns:
        score, digits = row.scores.get(column.name), max(1, column.decimals)
        shown = score is not None and not row.group.not_learnt
        estimate, marks = (score.estimate, score.marks) if shown else (None, "")
        entries.append(estimate_entry(estimate, "{:.{}f}".format, digits, marks=marks))
    return entries


def _difference_rows(row: OurRow, columns: Sequence[Column]) -> list[list[TableEntry]]:
    """One row, or none if no score has a difference."""
    if row.group.not_learnt:
        return []
    entries = []
    for column in columns:
        score, sign = row.scores.get(column.name), f"{{:+.{max(1, column.decimals)}f}}"
        entries.append(number_entry(score and score.difference, sign.format))
    if all(entry.order is None for entry in entries):
        return []
    return [[TableEntry("difference"), *entries]]


def _order_rows(comparison: Comparison, columns: Sequence[Column]) -> list[list[TableEntry]]:
    """For each scale, how many pairs of models are in the paper's order."""
    rows = []
    for scale in dict.fromkeys(row.group.first.scale for row in comparison.rows):
        counts = [order_kept(comparison, column, scale) for column in columns]
        if any(pairs for _, pairs in counts):
            entries = [
                TableEntry(f"{kept}/{pairs}" if pairs else NOTHING) for kept, pairs in counts
            ]
            rows.append([TableEntry(f"pairs in the paper's order, {scale}"), *entries])
    return rows


def _notes(comparison: Comparison) -> list[str]:
    table = comparison.table
    notes = [table.note] if table.note else []
    stand_ins = [measure for column in table.columns for measure in column.stand_in]
    named = ", ".join(f"{each.tasks[0]} {each.subtasks[0]} {each.metric}" for each in stand_ins)
    if any(row.group.not_learnt for row in comparison.rows):
        notes.append(NOT_LEARNT_LEGEND)
    for mark, meaning in LEGEND.items():
        if any(mark in score.marks for score in comparison.scores):
            notes.append(f"{mark}: {meaning.format(named)}")
    names_by_difference: dict[str, list[str]] = {}
    for row in comparison.rows:
        reasons = dict.fromkeys(reason for each in row.scores.values() for reason in each.reasons)
        difference = "; ".join([*row.differs, *reasons])
        names_by_difference.setdefault(difference, []).append(row.group.name)
    for difference, names in names_by_difference.items():
        rows = "all of ours" if len(names_by_difference) == 1 else ", ".join(dict.fromkeys(names))
        notes.append(f"{rows}: {difference or 'as in the paper, as far as the record says'}")
    notes += tuning_notes([row.group for row in comparison.rows])
    notes += [row.group.note for row in comparison.rows if row.group.note]
    notes += comparison.grid_notes
    return notes + [f"{row.model}, paper: {row.note}" for row in table.rows if row.note]


def comparison_csv(comparison: Comparison) -> str:
    """Every number of the paper and of ours, one pair per line, in the paper's unit."""
    table, pairs = comparison.table, []
    for published in table.rows:
        rows = [row for row in comparison.rows if row.preset == published.preset]
        pairs += [(published, row) for row in rows or [None]]
    pairs += [(None, row) for row in comparison.rows if row.preset not in table.presets]
    lines = [
        {"table": table.name, "column": column.name, **numbers}
        for (published, row), column in product(pairs, table.columns)
        if (numbers := _pair(published, row, column))
    ]
    return csv_text(CSV_COLUMNS, lines)


def _pair(published: PublishedRow | None, row: OurRow | None, column: Column) -> dict[str, object]:
    paper = published.values.get(column.name) if published else None
    score = row.scores.get(column.name) if row else None
    line: dict[str, object] = {}
    if paper is not None:
        line |= {"model": published.model, "preset": published.preset}
        line |= {"source": published.source, "paper": paper}
    if score is not None:
        ours = score.estimate
        line |= {"preset": row.preset, "scale": row.group.first.scale, "marks": score.marks}
        line |= {
            "learnt": row.group.learnt,
            "seeds": ours.seeds,
            "samples": ours.samples,
            "ours": ours.value,
        }
        line |= {"low": ours.low, "high": ours.high, "difference": score.difference}
        line |= {"differs": "; ".join([*row.differs, *score.reasons])}
    return {key: round(each, 4) if isinstance(each, float) else each for key, each in line.items()}
