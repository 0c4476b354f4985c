"""What is frozen of a golden run, and how a run's files are compared with it.

On the machine of the freeze every number must be equal to the last digit. On another machine
floats may differ, so there only the structure counts: files, keys, steps, cells, sample counts and
all other integers.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from atlas_bench.artifacts.saved_config import upgrade
from atlas_bench.config.typed import from_dict
from atlas_bench.models.settings import ModelSettings

EXPECTED = Path(__file__).parent / "expected"
MACHINE = EXPECTED / "machine.json"
RUN_FILES = ("record.json", "metrics.jsonl", "predictions.jsonl")
INDEX = "sweep.json"
# Times, and facts of the machine and its packages; they differ between two equal runs.
NOT_NUMBERS_OF_A_RUN = {
    "seconds", "wall_seconds", "train_seconds", "tokens_per_second", "peak_memory_bytes",
    "started", "started_at", "versions", "git_commit", "device", "sessions", "checkpoint_minutes",
}  # fmt: skip
NEW_KEYS = (
    "training.trials", "training.chosen", "model.query_convolution", "model.attention.norm",
    "model.recurrence.memory_tokens", "model.recurrence.key_dim", "model.recurrence",
)  # fmt: skip
DIFFERENCES_SHOWN = 10


def comparable_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config, frozen or new, with the keys of the present format, without those that configs did
    not have at the freeze and that have no effect in a golden; the model's have their defaults."""
    config = upgrade(config)
    for key in NEW_KEYS:
        *path, name = key.split(".")
        parent = config
        for part in path:
            parent = (parent or {}).get(part)
        assert not (parent or {}).pop(name, None), key
    return config | {"model": asdict(from_dict(ModelSettings, config["model"], "model."))}


def comparable_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    """A record's protocol, frozen or new, in the form in which the two are compared."""
    return protocol


def comparable_metrics(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl, frozen or new, in the form in which the two are compared.

    At the freeze tasks without noise logged a noise share of 0.0 and models without a memory a
    change of 0.0; now they log none.
    """
    dropped = (("noise_share", 0.0), ("memory_change", 0.0))
    return {key: value for key, value in line.items() if (key, value) not in dropped}


def comparable_index(index: dict[str, Any]) -> dict[str, Any]:
    """A sweep's index with the present keys, and without its hashes, which change with them."""

    def words(given: list[str]) -> list[str]:
        given = [word for word in given if word != "tuned=none"]  # there was no such choice
        return [word.replace("training.min_streams=", "training.min_sequences=") for word in given]

    jobs = [
        {key: value for key, value in job.items() if key != "identity"}
        | {"overrides": words(job["overrides"])}
        for job in index["jobs"]
    ]
    return {"command": words(index["command"]), "jobs": jobs}


def collect(folder: Path) -> dict[str, str]:
    """The files to freeze of the run or sweep in ``folder``: path in the folder -> content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name in (*RUN_FILES, INDEX):
            found[path.relative_to(folder).as_posix()] = _without_times(path, folder.parent)
    return found


def _without_times(path: Path, working_directory: Path) -> str:
    text = path.read_text(encoding="utf-8")
    text = text.replace(f"{working_directory.resolve()}/", "")
    kept = [_stripped(each) for each in _parsed(path.name, text)]
    if path.suffix == ".jsonl":
        return "".join(json.dumps(line) + "\n" for line in kept)
    return json.dumps(kept[0], indent=1) + "\n"


def _parsed(name: str, text: str) -> list[Any]:
    """The JSON values in a file: one per line in a .jsonl file, else one."""
    return (
        [json.loads(line) for line in text.splitlines()]
        if name.endswith(".jsonl")
        else [json.loads(text)]
    )


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _stripped(each) for key, each in value.items() if key not in NOT_NUMBERS_OF_A_RUN
        }
    return [_stripped(each) for each in value] if isinstance(value, list) else value


# comparing ---------------------------------------------------------------------------------


def differences(
    frozen: dict[str, str], new: dict[str, str], *, resumed: bool = False, exact: bool
) -> list[str]:
    """What differs between two results of `collect`, one sentence each.

    ``resumed``: the new run was stopped and resumed, so its config has another ``resume``.
    ``exact``: floats and texts made from them must be equal too.
    """
    found = [f"{name}: the file is missing" for name in frozen.keys() - new.keys()]
    found += [f"{name}: the file was not there before" for name in new.keys() - frozen.keys()]
    for name in frozen.keys() & new.keys():
        wanted, got = (_comparable(name, each[name], resumed) for each in (frozen, new))
        loose = not exact and Path(name).name == "predictions.jsonl"
        found += [
            f"{name}: {line}" for line in _different(wanted, got, exact=exact, values=not loose)
        ]
    return sorted(found)


def _comparable(name: str, text: str, resumed: bool) -> list[Any]:
    parsed = _parsed(name, text)
    if name.endswith(INDEX):
        return [comparable_index(parsed[0])]
    if name.endswith("metrics.jsonl"):
        return [comparable_metrics(line) for line in parsed]
    if not name.endswith("record.json"):
        return parsed
    record = parsed[0]
    record["config"] = comparable_config(record["config"])
    record["protocol"] = comparable_protocol(record["protocol"])
    for key in ("format", "metrics", "stages"):  # which records did not have at the freeze
        record.pop(key, None)
    if resumed:
        record["config"].pop("resume")
    return [record]


def _different(
    wanted: Any, got: Any, where: str = "", *, exact: bool, values: bool
) -> Iterator[str]:
    """Sentences on the values that differ below ``where``; of leaves only where ``values``."""
    counts = exact or not isinstance(wanted, float)
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in wanted.keys() | got.keys():
            place = f"{where}.{key}".lstrip(".")
            if key not in got:
                yield f"{place} is missing, wanted {_short(wanted[key])}"
            elif key not in wanted:
                yield f"{place} was not there before, got {_short(got[key])}"
            else:
                yield from _different(wanted[key], got[key], place, exact=exact, values=values)
    elif isinstance(wanted, list) and isinstance(got, list):
        if len(wanted) != len(got):
            yield f"{where or 'the file'} has {len(got)} entries, wanted {len(wanted)}"
        for number, (one, other) in enumerate(zip(wanted, got, strict=False)):
            yield from _different(one, other, f"{where}[{number}]", exact=exact, values=values)
    elif type(wanted) is not type(got) or (wanted != got and values and counts):
        yield f"{where}: wanted {_short(wanted)}, got {_short(got)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def message(name: str, found: list[str]) -> str:
    """What a failed comparison of the golden ``name`` says."""
    lines = [f"{name}: {len(found)} differences from tests/golden/expected", *found]
    more = len(lines) - 1 - DIFFERENCES_SHOWN
    return "\n  ".join(lines[: DIFFERENCES_SHOWN + 1] + ([f"and {more} more"] if more > 0 else []))


# the frozen files --------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What decides the last digits of a number beside the code: processor, torch, its kernels."""
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
    }
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.is_file() else []
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in wanted:
            facts[key] = value
        elif key == "flags":
            facts["flags"] = hashlib.sha256(value.encode()).hexdigest()[:16]
    return facts


def same_machine() -> bool:
    """Whether this is the machine of the freeze, as far as its numbers go."""
    return MACHINE.is_file() and json.loads(MACHINE.read_text()) == machine()


def read_frozen(name: str) -> dict[str, str]:
    """The frozen files of the golden ``name``: path in its folder -> content."""
    folder = EXPECTED / name
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_frozen(name: str, files: dict[str, str]) -> None:
    """Replace the frozen files of the golden ``name``."""
    for path in (EXPECTED / name).rglob("*.json*"):
        path.unlink()
    for place, content in files.items():
        path = EXPECTED / name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
