"""Records: what one run leaves behind, read and written so that a kill loses nothing.

Everything in report/ starts here; a record is plain JSON and needs nothing else to be understood.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from atlas_bench.artifacts.folder import FAILED_NAME, NOT_RUNS, RECORD_NAME, RUN_MARKS, replacing
from atlas_bench.artifacts.schema import DepthScore, Record, Score


class RecordError(ValueError):
    """A record cannot be read or found; the message is one sentence that names the path."""


# writing -----------------------------------------------------------------------------------


def write_record(record: Record, path: Path) -> None:
    """Write ``record`` as JSON to ``path`` in one step, after the bytes are on disk.

    Scores that are no number stand in its notes instead; of validation scores then none are left,
    for a mean of the others would be of something else than in other runs.
    """
    content = _plain(asdict(_without_infinite(record)))
    del content["path"]
    with replacing(Path(path)) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )


def _without_infinite(record: Record) -> Record:
    """``record`` with what it could not be read with as notes."""
    notes, kept = [], {}
    for name in ("scores", "depths", "validation"):
        scores = getattr(record, name)
        kept[name] = [score for score in scores if math.isfinite(score.value)]
        notes += [
            f"{name}: {score.metric} of {score.subtask} {score.length_name} is {score.value}"
            for score in scores
            if not math.isfinite(score.value)
        ]
    if len(kept["validation"]) < len(record.validation):
        kept["validation"] = []
        notes.append("validation: no scores, for not all of them are numbers")
    return replace(record, notes=[*record.notes, *notes], **kept)


def _plain(value: Any) -> Any:
    """JSON's own types: numpy scalars as numbers, not finite as null, paths and others as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


# reading -----------------------------------------------------------------------------------


def read_record(path: Path) -> Record:
    """The record at ``path``; keys that this version does not know are ignored.

    Raises RecordError in one sentence where the file cannot be read, is no JSON, or a key is
    missing or of the wrong type.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # broken JSON or broken UTF-8
        raise RecordError(f"{path} is no valid JSON: {error}") from error
    try:
        known = _known_fields(Record, content, "the record")
        for name, kind in (("scores", Score), ("depths", DepthScore), ("validation", Score)):
            known[name] = [
                kind(**_known_fields(kind, entry, f"{name}[{index}]"))
                for index, entry in enumerate(known.get(name, []))
            ]
    except ValueError as error:
        raise RecordError(f"{path} is no valid record: {error}") from error
    return Record(**known, path=path)


def _known_fields(kind: type, content: Any, where: str) -> dict[str, Any]:
    """The entries of ``content`` that are fields of ``kind``, complete and of the right types."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} is no JSON object")
    found, missing = {}, []
    hints = get_type_hints(kind)
    for each in fields(kind):
        if each.name == "path":
            continue
        if each.name in content:
            value = content[each.name]
            if not isinstance(value, _accepted(hints[each.name])):
                raise ValueError(f"{each.name} of {where} cannot be a {type(value).__name__}")
            found[each.name] = value
        elif each.default is MISSING and each.default_factory is MISSING:
            missing.append(each.name)
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return found


def _accepted(hint: Any) -> tuple[type, ...]:
    """The classes that an annotation allows: `float | None` -> float, int, NoneType."""
    if get_origin(hint) in (Union, UnionType):
        return sum((_accepted(part) for part in get_args(hint)), ())
    if hint is float:
        return (float, int)
    return (get_origin(hint) or hint,)


def why_failed(folder: Path) -> str | None:
    """The reason why the job in ``folder`` has no record; None where it did not fail."""
    try:
        return str(json.loads((folder / FAILED_NAME).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# finding -----------------------------------------------------------------------------------


class Found(NamedTuple):
    """Paths of records, and folders of runs that have none, both sorted."""

    records: list[Path]
    unfinished: list[Path]


def find_records(*directories: Path | str) -> Found:
    """All records under ``directories``, each once, however the directories overlap.

    Raises RecordError for a directory that does not exist.
    """
    records: dict[Path, Path] = {}
    unfinished: dict[Path, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            what = "is no directory" if directory.exists() else "does not exist"
            raise RecordError(f"{directory} {what}")
        for here, folders, files in os.walk(directory):
            folders[:] = [name for name in folders if name[0] != "." and name not in NOT_RUNS]
            folder = Path(here)
            if RECORD_NAME in files:
                records.setdefault(folder.resolve(), folder / RECORD_NAME)
            elif any(mark in files for mark in RUN_MARKS):
                unfinished.setdefault(folder.resolve(), folder)
    return Found(sorted(records.values()), sorted(unfinished.values()))
