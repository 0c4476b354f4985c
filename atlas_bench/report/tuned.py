"""What validation chose for one model and scale, as a file of conf/tuned."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from atlas_bench.artifacts.folder import replacing
from atlas_bench.artifacts.records import RecordError
from atlas_bench.artifacts.schema import Record
from atlas_bench.report.row_groups import NOT_LEARNT, setup_of
from atlas_bench.report.selection import NO_CHOICE, SettingsGrid

# What may differ between models that are compared. Everything else is the same for all of them.
FREE = (
    "training.learning_rate",
    "model.memory.chunk",
    "model.memory.update_every",
    "scale.attention_window",
)
COMMENT_WIDTH = 98


def write_tuned(grid: SettingsGrid, given: Collection[str], folder: Path) -> Path:
    """Write MODEL_SCALE.yaml: the free settings of the best trial, and how they were chosen.

    ``given`` are the keys that the sweep's command set.
    Raises RecordError if validation chose none, or if the trials differ in other settings.
    """
    if not grid.best:
        raise RecordError(f"{grid.model}: {NO_CHOICE}")
    if others := [key for key in grid.varied if key not in FREE]:
        raise RecordError(
            f"{grid.model}: the trials differ in {others[0]}, which conf/tuned does not hold; it "
            f"holds {', '.join(FREE)}"
        )
    best, setup = grid.best[0], setup_of(grid.best[0])
    chosen = {key: setup[key] for key in FREE if key in given}
    content = OmegaConf.create({"training": {"trials": grid.points, "chosen": chosen}})
    for key, value in chosen.items():
        OmegaConf.update(content, key, value)
    path = folder / f"{best.model}_{best.scale}.yaml"
    comment = ["@package _global_", *textwrap.wrap(_how(grid), COMMENT_WIDTH)]
    text = "".join(f"# {line}\n" for line in comment) + OmegaConf.to_yaml(content)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _how(grid: SettingsGrid) -> str:
    best = grid.best[0]
    ranked = sorted(grid.records, key=lambda record: -record.validation_score)
    tried = "; ".join(f"{_values(record, grid.varied)}: {_score(record)}" for record in ranked)
    return (
        f"The best of {grid.points} trials by validation on {grid.subject}: {best.train_tokens:,} "
        f"tokens each, seed {best.seed}, {best.started_at[:10]}, commit "
        f"{(best.git_commit or 'unknown')[:7]}. {tried}."
    )


def _values(record: Record, keys: Sequence[str]) -> str:
    setup = setup_of(record)
    return ", ".join(f"{key.rpartition('.')[2]} {setup.get(key)}" for key in keys)


def _score(record: Record) -> str:
    learnt = NOT_LEARNT if record.not_learnt else f"learnt at {record.learnt_at or 0:,}"
    return f"{record.validation_score:.3f} ({learnt})"
