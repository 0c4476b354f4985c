"""A comparison with a paper as tables: the paper's numbers, ours under them, the difference."""

from __future__ import annotations

import csv
import io

from atlas_bench.report.comparison import (
    BASELINE,
    DIFFERS,
    ON_FIXTURE,
    STANDS_IN,
    Comparison,
    OurRow,
    Ours,
    order_kept,
)
from atlas_bench.report.published import Column, PublishedRow
from atlas_bench.report.table_formats import NOTHING, Entry, Sheet

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


def comparison_sheets(comparison: Comparison) -> list[Sheet]:
    """One for each group of columns in which there is something of ours: the paper's models that we
    have too, each above ours and the difference; the paper's others; ours that the paper has not;
    how much of the order holds. None where nothing is ours."""
    columns = comparison.table.columns
    scored = {name for ours in comparison.ours for name in ours.cells}
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.group, []).append(column)
    shown = {
        group: of_group
        for group, of_group in groups.items()
        if any(column.name in scored for column in of_group)
    }
    sheets = [_sheet(comparison, group, of_group) for group, of_group in shown.items()]
    if sheets:  # the notes hold for all of them
        sheets[-1].notes += _notes(comparison)
        if missing := [group for group in groups if group not in shown]:
            sheets[-1].notes.append(f"No run found has a score of {', '.join(missing)}.")
    return sheets


def _sheet(comparison: Comparison, group: str, columns: list[Column]) -> Sheet:
    table = comparison.table
    names = {column.name for column in columns}
    ours = [each for each in comparison.ours if names & set(each.cells)]
    known = {each.preset for each in ours}
    shared = []
    for published in table.rows:
        if published.preset not in known:
            continue
        rows = [_paper_row(published, columns)]
        for each in ours:
            if each.preset == published.preset:
                rows += _our_rows(published, each, columns)
        shared.append(rows)
    papers = [_paper_row(row, columns) for row in table.rows if row.preset not in known]
    theirs = {row.preset for row in table.rows}
    others = [_our_row(each, columns) for each in ours if each.preset not in theirs]
    sections = [*shared, papers, others, _order_rows(comparison, columns)]
    return Sheet(
        f"{table.title} ({table.paper})" + (f", {group}" if group else ""),
        ["model", *(column.heading for column in columns)],
        texts=1,
        sections=[section for section in sections if section],
    )


def _our_rows(published: PublishedRow, ours: OurRow, columns: list[Column]) -> list[list[Entry]]:
    """Ours, and the difference wherever there is one."""
    differences = [
        _difference_entry(difference(published, ours, column), column) for column in columns
    ]
    rows = [_our_row(ours, columns)]
    if any(entry.order is not None for entry in differences):
        rows.append([Entry("difference"), *differences])
    return rows


def _paper_row(published: PublishedRow, columns: list[Column]) -> list[Entry]:
    entries = []
    for column in columns:
        value = published.values.get(column.name)
        text = NOTHING if value is None else f"{value:.{column.decimals}f}"
        entries.append(Entry(text, order=value))
    return [Entry(f"{published.model}, paper"), *entries]


def _our_row(ours: OurRow, columns: list[Column]) -> list[Entry]:
    seeds = "" if ours.seeds == 1 else f"{ours.seeds} seeds"
    cells = [_our_entry(ours.cells.get(column.name), column) for column in columns]
    return [Entry(f"{ours.pool.name}, ours", seeds, f"({seeds})" if seeds else ""), *cells]


def _our_entry(ours: Ours | None, column: Column) -> Entry:
    if ours is None:
        return Entry(NOTHING)
    cell, digits, below, beside = ours.cell, max(1, column.decimals), "", ""
    if cell.spread is not None:
        below = f"\N{PLUS-MINUS SIGN}{cell.spread:.{digits}f}"
        beside = f"\N{PLUS-MINUS SIGN} {cell.spread:.{digits}f}"
    elif cell.low is not None and cell.high is not None:
        below = f"{cell.low:.0f}\N{EN DASH}{cell.high:.0f}"
        beside = f"[{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return Entry(f"{cell.value:.{digits}f}{ours.marks}", below, beside, order=cell.value)


def _difference_entry(value: float | None, column: Column) -> Entry:
    if value is None:
        return Entry(NOTHING)
    sign = "\N{MINUS SIGN}" if value < 0 else "+"
    return Entry(f"{sign}{abs(value):.{max(1, column.decimals)}f}", order=value)


def difference(published: PublishedRow, ours: OurRow, column: Column) -> float | None:
    """Ours less the paper's; None where one is missing or it would mean nothing."""
    paper, cell = published.values.get(column.name), ours.cells.get(column.name)
    if paper is None or cell is None or not cell.comparable:
        return None
    return cell.cell.value - paper


def _order_rows(comparison: Comparison, columns: list[Column]) -> list[list[Entry]]:
    """For each scale, how many pairs of models are in the paper's order."""
    rows = []
    for scale in dict.fromkeys(ours.scale for ours in comparison.ours):
        counts = [order_kept(comparison, column, scale) for column in columns]
        if any(pairs for _, pairs in counts):
            entries = [Entry(f"{kept}/{pairs}" if pairs else NOTHING) for kept, pairs in counts]
            rows.append([Entry(f"pairs in the paper's order, {scale}"), *entries])
    return rows


def _notes(comparison: Comparison) -> list[str]:
    table = comparison.table
    notes = [table.note] if table.note else []
    cells = [cell for ours in comparison.ours for cell in ours.cells.values()]
    stand_ins = [column.stand_in for column in table.columns if column.stand_in]
    named = ", ".join(f"{each.tasks[0]} {each.subtasks[0]} {each.metric}" for each in stand_ins)
    for mark, meaning in LEGEND.items():
        if any(mark in cell.marks for cell in cells):
            notes.append(f"{mark}: {meaning.format(named)}")
    alike: dict[str, list[str]] = {}  # rows by what differs
    for ours in comparison.ours:
        reasons = dict.fromkeys(reason for cell in ours.cells.values() for reason in cell.reasons)
        alike.setdefault("; ".join([*ours.differs, *reasons]), []).append(ours.pool.name)
    for said, names in alike.items():
        whose = "all of ours" if len(alike) == 1 else ", ".join(dict.fromkeys(names))
        notes.append(f"{whose}: {said or 'as in the paper, as far as the record says'}")
    notes += [ours.pool.note for ours in comparison.ours if ours.pool.note]
    notes += comparison.choices
    return notes + [f"{row.model}, paper: {row.note}" for row in table.rows if row.note]


def comparison_csv(comparison: Comparison) -> str:
    """Every number of the paper and of ours, one pair a line, in the paper's unit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    table = comparison.table
    theirs = {row.preset for row in table.rows}
    pairs: list[tuple[PublishedRow | None, OurRow | None]] = []
    for published in table.rows:
        pairs += [(published, ours) for ours in comparison.of(published) or [None]]
    pairs += [(None, ours) for ours in comparison.ours if ours.preset not in theirs]
    for published, ours in pairs:
        for column in table.columns:
            line = {**_their_fields(published, column), **_our_fields(ours, column)}
            if "paper" in line and "ours" in line:
                line["difference"] = _rounded(difference(published, ours, column))
            if "paper" in line or "ours" in line:
                writer.writerow({"table": table.name, "column": column.name, **line})
    return text.getvalue()


def _their_fields(published: PublishedRow | None, column: Column) -> dict[str, object]:
    if published is None or column.name not in published.values:
        return {}
    return {
        "model": published.model,
        "preset": published.preset,
        "source": published.source,
        "paper": published.values[column.name],
    }


def _our_fields(ours: OurRow | None, column: Column) -> dict[str, object]:
    if ours is None or column.name not in ours.cells:
        return {}
    found = ours.cells[column.name]
    return {
        "preset": ours.preset,
        "scale": ours.scale,
        "seeds": found.cell.seeds,
        "samples": found.cell.samples,
        "ours": _rounded(found.cell.value),
        "low": _rounded(found.cell.low),
        "high": _rounded(found.cell.high),
        "marks": found.marks,
        "differs": "; ".join([*ours.differs, *found.reasons]),
    }


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
