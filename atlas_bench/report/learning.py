"""How the rows of a table were tuned, and whether and when their models learnt."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from atlas_bench.artifacts.schema import Record
from atlas_bench.report.row_groups import RunGroup, merge_seeds, tuning_notes
from atlas_bench.report.tables import NOTHING, Table, TableEntry, number_entry, short_count

HEADINGS = ("model", "size", "trials", "seeds", "learnt", "tokens to learn", "tokens", "chosen")
LEGEND = (
    "Trials: settings tried before validation chose those of the row. Learnt: seeds that passed a "
    "stage of their training. Tokens to learn: until the first stage was passed, mean over these "
    "seeds and the range."
)


def learning_tables(records: Iterable[Record]) -> list[Table]:
    """One table for each task whose runs were tuned or trained in stages."""
    tables: dict[str, Table] = {}
    groups = [each for each in merge_seeds(records) if each.trials or each.learnt is not None]
    for group in groups:
        task = group.first.task
        if task not in tables:
            tables[task] = Table(f"{task}, trials and seeds", list(HEADINGS), 1, [[]], [LEGEND])
        tables[task].sections[0].append(_row(group))
    for task, table in tables.items():
        table.notes += tuning_notes([each for each in groups if each.first.task == task])
    return list(tables.values())


def _row(group: RunGroup) -> list[TableEntry]:
    learnt_at = [each.learnt_at for each in group.records if each.learnt_at is not None]
    needed = TableEntry(NOTHING)
    if learnt_at:
        low, high = short_count(min(learnt_at)), short_count(max(learnt_at))
        needed = number_entry(mean(learnt_at), lambda tokens: short_count(round(tokens)))
        if low != high:
            needed = TableEntry(needed.text, f"{low} to {high}", f"({low} to {high})", needed.order)
    chosen = (group.first.config.get("training") or {}).get("chosen") or {}
    said = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items())
    return [
        TableEntry(group.name),
        number_entry(group.first.parameters, short_count),
        number_entry(group.trials, str),
        number_entry(len(group.records), str),
        number_entry(group.learnt, str),
        needed,
        number_entry(group.first.train_tokens, short_count),
        TableEntry(said or NOTHING),
    ]
