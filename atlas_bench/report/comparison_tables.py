"""A comparison with a paper as tables: the paper's numbers, ours under them, the difference."""

from __future__ import annotations

from collections.abc import Sequence

from atlas_bench.report.comparison import (
    BASELINE,
    DIFFERS,
    ON_FIXTURE,
    STANDS_IN,
    Comparison,
    OurRow,
    OurScore,
    order_kept,
)
from atlas_bench.report.published import Column, PublishedRow
from atlas_bench.report.table_formats import NOTHING, Table, TableEntry, csv_text
from atlas_bench.report.tables import estimate_entry, seeds_entry

LEGEND = {
    DIFFERS: "not the paper's protocol, so no replication; what differs is said below",
    ON_FIXTURE: "made-up fixture data, which says nothing about a model; no difference is given",
    BASELINE: "the baseline alone: the score is the mean over it and all changes to it",
    STANDS_IN: "another measure stands in ({}); only the order of the models can be compared",
}
CSV_COLUMNS = (
    *("table", "column", "model", "preset", "source", "paper", "scale", "seeds", "samples"),
    *("ours", "low", "high", "difference", "marks", "differs"),
)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """One table for each group of columns with a score of ours; none if nothing is ours.

    Sections: each model of the paper that we have too, with ours and the difference below it; the
    paper's other models; ours that the paper does not have; how much of the order is kept.
    """
    scored = {name for row in comparison.rows for name in row.scores}
    groups: dict[str, list[Column]] = {}
    for column in comparison.table.columns:
        groups.setdefault(column.group, []).append(column)
    shown = [
        name for name, columns in groups.items() if scored & {column.name for column in columns}
    ]
    tables = [_table(comparison, name, groups[name]) for name in shown]
    if tables:  # the notes hold for all of them
        tables[-1].notes += _notes(comparison)
        if missing := [name for name in groups if name not in shown]:
            tables[-1].notes.append(f"No run found has a score of {', '.join(missing)}.")
    return tables


def _table(comparison: Comparison, group: str, columns: Sequence[Column]) -> Table:
    about, names = comparison.table, {column.name for column in columns}
    shared, papers = [], []
    for published in about.rows:
        paper = _paper_entries(published, columns)
        rows = [row for row in comparison.rows_of(published) if names & set(row.scores)]
        if rows:
            ours = [entries for row in rows for entries in _our_rows(row, published, columns)]
            shared.append([paper, *ours])
        else:
            papers.append(paper)
    unpublished = [row for row in comparison.unpublished if names & set(row.scores)]
    others = [_our_entries(row, columns) for row in unpublished]
    sections = [*shared, papers, others, _order_rows(comparison, columns)]
    return Table(
        f"{about.title} ({about.paper})" + (f", {group}" if group else ""),
        ["model", *(column.heading for column in columns)],
        texts=1,
        sections=[section for section in sections if section],
    )


def _our_rows(
    row: OurRow, published: PublishedRow, columns: Sequence[Column]
) -> list[list[TableEntry]]:
    """Ours, and the difference if any score has one."""
    differences = [_difference_entry(_difference(row, published, each), each) for each in columns]
    rows = [_our_entries(row, columns)]
    if any(entry.order is not None for entry in differences):
        rows.append([TableEntry("difference"), *differences])
    return rows


def _paper_entries(published: PublishedRow, columns: Sequence[Column]) -> list[TableEntry]:
    entries = [TableEntry(f"{published.model}, paper")]
    for column in columns:
        value = published.values.get(column.name)
        text = NOTHING if value is None else f"{value:.{column.decimals}f}"
        entries.append(TableEntry(text, order=value))
    return entries


def _our_entries(row: OurRow, columns: Sequence[Column]) -> list[TableEntry]:
    scores = [_score_entry(row.scores.get(column.name), column) for column in columns]
    return [seeds_entry(f"{row.group.name}, ours", row.seeds), *scores]


def _score_entry(score: OurScore | None, column: Column) -> TableEntry:
    if score is None:
        return TableEntry(NOTHING)

    def number(value: float, digits: int) -> str:
        return f"{value:.{digits}f}"

    return estimate_entry(score.estimate, number, max(1, column.decimals), marks=score.marks)


def _difference_entry(value: float | None, column: Column) -> TableEntry:
    if value is None:
        return TableEntry(NOTHING)
    sign = "\N{MINUS SIGN}" if value < 0 else "+"
    return TableEntry(f"{sign}{abs(value):.{max(1, column.decimals)}f}", order=value)


def _difference(row: OurRow, published: PublishedRow, column: Column) -> float | None:
    score = row.scores.get(column.name)
    return None if score is None else score.difference(published.values.get(column.name))


def _order_rows(comparison: Comparison, columns: Sequence[Column]) -> list[list[TableEntry]]:
    """For each scale, how many pairs of models are in the paper's order."""
    rows = []
    for scale in dict.fromkeys(row.scale for row in comparison.rows):
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
    notes += [row.group.note for row in comparison.rows if row.group.note]
    notes += comparison.grid_notes
    return notes + [f"{row.model}, paper: {row.note}" for row in table.rows if row.note]


# CSV ---------------------------------------------------------------------------------------


def comparison_csv(comparison: Comparison) -> str:
    """Every number of the paper and of ours, one pair per line, in the paper's unit."""
    pairs: list[tuple[PublishedRow | None, OurRow | None]] = []
    for published in comparison.table.rows:
        pairs += [(published, row) for row in comparison.rows_of(published) or [None]]
    pairs += [(None, row) for row in comparison.unpublished]
    lines = [
        {"table": comparison.table.name, "column": column.name, **numbers}
        for published, row in pairs
        for column in comparison.table.columns
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
        found = score.estimate
        line |= {"preset": row.preset, "scale": row.scale}
        line |= {"seeds": found.seeds, "samples": found.samples, "ours": _rounded(found.value)}
        line |= {"low": _rounded(found.low), "high": _rounded(found.high)}
        line |= {"difference": _rounded(score.difference(paper)), "marks": score.marks}
        line |= {"differs": "; ".join([*row.differs, *score.reasons])}
    return line


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
