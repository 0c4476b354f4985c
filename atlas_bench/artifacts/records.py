"""Records: what one run leaves behind, read and written so that a kill loses nothing.

Everything in report/ is made from records alone; a record is plain JSON and explains itself.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from atlas_bench.artifacts.folder import (
    NOT_RUNS,
    RECORD_NAME,
    RUN_MARKS,
    RunFolder,
    UnreadableFile,
    read_json,
    read_json_if_valid,
    write_json,
)
from atlas_bench.artifacts.metrics import Metric, metric_of_format_1
from atlas_bench.artifacts.saved_config import upgrade as upgrade_config
from atlas_bench.artifacts.schema import RECORD_FORMAT, DepthScore, Record, Score, StageEnd
from atlas_bench.config.errors import ConfigError
from atlas_bench.naming import one_line, printable

LISTS = {
    "scores": Score, "depths": DepthScore, "validation": Score, "metrics": Metric,
    "stages": StageEnd,
}  # fmt: skip
SIGNED = ("seed", "value", "ci_low", "ci_high")  # all other numbers are at least 0
TASK_NAME = re.compile(r"\w[\w .()-]{0,99}")  # a report makes folders of these
ROUNDING = 1e-6  # by which the mean of shares may exceed 1

log = logging.getLogger(__name__)


class RecordError(ConfigError):
    """A record cannot be read or found. The message is one sentence that names the path."""


# writing -----------------------------------------------------------------------------------


def write_record(record: Record, path: Path) -> None:
    """Write ``record`` as JSON to ``path`` in one step, after the bytes are on disk.

    Scores that are not finite become notes. If a validation score is not finite, all of them are
    dropped, because the mean of the others could not be compared with other runs.
    """
    content = {"format": record.format, **asdict(_with_finite_scores(record))}
    del content["path"]
    # What JSON does not have: numpy scalars become numbers, NaN and infinity null, others text.
    text = json.dumps(content, default=lambda other: getattr(other, "tolist", other.__str__)())
    write_json(Path(path), json.loads(text, parse_constant=lambda _: None))


def _with_finite_scores(record: Record) -> Record:
    """``record`` with a note instead of each score that is not finite."""
    notes, finite = [], {}
    for name in ("scores", "depths", "validation"):
        scores = getattr(record, name)
        finite[name] = [score for score in scores if math.isfinite(score.value)]
        notes += [
            f"{name}: {score.metric} of {score.subtask} {score.length_name} is {score.value}"
            for score in scores
            if not math.isfinite(score.value)
        ]
    if len(finite["validation"]) < len(record.validation):
        finite["validation"] = []
        notes.append("validation: no scores, because not all of them are finite")
    return replace(record, notes=[*record.notes, *notes], **finite)


# reading -----------------------------------------------------------------------------------


def read_record(path: Path) -> Record:
    """The record at ``path``, upgraded to the present format; unknown keys are ignored.

    Raises RecordError in one sentence for a file that cannot be read, is not JSON, has a later
    format, or has a key that is missing, of the wrong type or impossible.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except UnreadableFile as error:
        raise RecordError(str(error)) from error
    try:
        content = _presentable(content)
        values = _values_of(Record, content, "the record")
        for name, kind in LISTS.items():
            if values.get(name) is not None:
                values[name] = [
                    kind(**_values_of(kind, item, f"{name}[{index}]"))
                    for index, item in enumerate(values[name])
                ]
        record = _upgrade(Record(**values, path=path), content.get("format", 1))
        _check(record)
        return record
    except ValueError as error:
        raise RecordError(f"{path} is not a valid record: {one_line(error)}") from error


def try_record(folder: RunFolder) -> tuple[Record | None, str | None]:
    """The record of a run that ended, or None and what is wrong with it, if there is one."""
    if not os.path.exists(folder.record):  # Path.exists raises for a folder that is closed to us
        return None, None
    try:
        return read_record(folder.record), None
    except RecordError as error:
        return None, str(error)


def _upgrade(record: Record, written_format: int) -> Record:
    if written_format > RECORD_FORMAT:
        raise ValueError(f"its format {written_format} is later than {RECORD_FORMAT}")
    if written_format < 2:
        scores = [*record.scores, *record.validation, *record.depths]
        names = dict.fromkeys(score.metric for score in scores)
        record.metrics = [metric_of_format_1(name) for name in names]
        record.config = upgrade_config(record.config)
    record.format = RECORD_FORMAT
    return record


def _presentable(value: Any) -> Any:
    """``value`` with printable text. Raises ValueError for numbers that no record has."""
    if isinstance(value, dict):
        return {printable(key): _presentable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_presentable(each) for each in value]
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"it holds the number {value}")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError("it holds a whole number of more than 64 bits")
    return value


def _check(record: Record) -> None:
    """Raise ValueError for scores and names that cannot be."""
    if not TASK_NAME.fullmatch(record.task):
        raise ValueError(f"task of the record cannot be {record.task[:100]!r}")
    for config in (record.config, record.config.get("trained_on") or {}):
        for group in ("training", "text", "trained_on"):
            if not isinstance(config.get(group), (dict, NoneType)):
                raise ValueError(f"{group} in a config of the record is not a JSON object")
    for score in record.depths:
        if not score.depth_low <= score.depth_high <= 1:
            raise ValueError(f"depths lie between 0 and 1, not at {score.depth_high}")
    for score in (*record.scores, *record.validation, *record.depths):
        is_share = record.metric(score.metric).in_per_cent
        if is_share and not 0 <= score.value <= 1 + ROUNDING:
            raise ValueError(
                f"{score.metric} of {score.subtask} {score.length_name} is {score.value}, but a "
                f"share lies between 0 and 1"
            )


def _values_of(kind: type, content: Any, where: str) -> dict[str, Any]:
    """The entries of ``content`` that are fields of ``kind``, complete and of the right types."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not a JSON object")
    values, missing = {}, []
    hints = get_type_hints(kind)
    for each in fields(kind):
        if each.name == "path":
            continue
        if each.name in content:
            value = content[each.name]
            accepted = _accepted(hints[each.name])
            if not isinstance(value, accepted) or isinstance(value, bool) > (bool in accepted):
                raise ValueError(f"{each.name} of {where} cannot be a {type(value).__name__}")
            if each.name not in SIGNED and isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{each.name} of {where} cannot be {value}")
            values[each.name] = value
        elif each.default is MISSING and each.default_factory is MISSING:
            missing.append(each.name)
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return values


def _accepted(hint: Any) -> tuple[type, ...]:
    """The classes that an annotation allows: `float | None` -> float, int, NoneType."""
    if get_origin(hint) in (Union, UnionType):
        return sum((_accepted(part) for part in get_args(hint)), ())
    if hint is float:
        return (float, int)
    return (get_origin(hint) or hint,)


def why_failed(folder: Path) -> str | None:
    """Why the job in ``folder`` failed; None if it did not."""
    failure = read_json_if_valid(RunFolder(folder).failed)
    return printable(str(failure["reason"])) if failure and "reason" in failure else None


# finding -----------------------------------------------------------------------------------


def _warn(error: OSError) -> None:
    log.warning("left out: %s cannot be read: %s", error.filename, error.strerror)


class RunsOnDisk(NamedTuple):
    """Paths of records, and folders of runs without one, both sorted."""

    records: list[Path]
    unfinished: list[Path]


def find_records(*directories: Path | str) -> RunsOnDisk:
    """All records under ``directories``, each once, even where the directories overlap.

    Raises RecordError for a directory that does not exist.
    """
    records: dict[Path, Path] = {}
    unfinished: dict[Path, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            problem = "is not a directory" if directory.exists() else "does not exist"
            raise RecordError(f"{directory} {problem}")
        for here, folders, files in os.walk(directory, onerror=_warn):
            folders[:] = [name for name in folders if name[0] != "." and name not in NOT_RUNS]
            folder = Path(here)
            if RECORD_NAME in files:
                records.setdefault(folder.resolve(), folder / RECORD_NAME)
            elif any(mark in files for mark in RUN_MARKS):
                unfinished.setdefault(folder.resolve(), folder)
    return RunsOnDisk(sorted(records.values()), sorted(unfinished.values()))
