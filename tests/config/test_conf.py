"""A file of conf/ says only what differs from the composition below it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from atlas_bench.cli.compose import register_schema
from atlas_bench.config.locations import folder_of
from atlas_bench.runs.settings import RunSettings

CONF = folder_of("conf")
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
GLOBAL = "# @package _global_\n"


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of conf/."""
    return Path(shutil.copytree(CONF, tmp_path_factory.mktemp("conf"), dirs_exist_ok=True))


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is not a mapping."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def below(file: Path, conf: Path) -> dict[str, Any]:
    """The values that the keys of ``file`` would have if it had nothing but its defaults list."""
    if file == Path("config.yaml"):
        return OmegaConf.to_container(OmegaConf.structured(RunSettings))
    text = (CONF / file).read_text(encoding="utf-8")
    head = GLOBAL if text.startswith(GLOBAL) else ""
    defaults = (yaml.safe_load(text) or {}).get("defaults", [])
    defaults = [each for each in defaults if "/hydra/" not in str(each)]  # of the extra [sweep]
    (conf / file).write_text(head + yaml.safe_dump({"defaults": defaults}), encoding="utf-8")
    group, _, name = file.with_suffix("").as_posix().partition("/")
    word = f"+{group}={name}" if group == "experiment" else f"{group}={name}"
    register_schema()
    try:
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            config = OmegaConf.to_container(hydra.compose("config", [word]))
    finally:
        shutil.copy(CONF / file, conf / file)
    return config if head else config[group]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_says_only_what_differs(file: Path, conf: Path) -> None:
    content = yaml.safe_load((CONF / file).read_text(encoding="utf-8")) or {}
    given = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
    known = dict(leaves(below(file, conf)))
    repeated = [key for key, value in leaves(given) if key in known and known[key] == value]
    assert repeated == [], f"conf/{file} repeats what it has without these keys"
