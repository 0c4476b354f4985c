"""The configuration page: every key of every schema, its default and what it means."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from types import ModuleType

import pytest
from docs_pages import REPOSITORY
from omegaconf import OmegaConf

from atlas_bench.config.locations import folder_of
from atlas_bench.models.settings import HubSettings
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.registry import TASKS


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(node: object, prefix: str) -> dict[str, object]:
    """Dotted key -> value of a config; a list is a value."""
    if not isinstance(node, dict):
        return {prefix: node}
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def test_every_key_of_every_schema_is_described(reference: ModuleType) -> None:
    lines = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| (.*?) \| (.*) \|$", reference.page(), re.M)
    shown = {key: (default.strip("`"), text) for key, _, default, text in lines}
    config = OmegaConf.to_container(OmegaConf.structured(RunSettings))
    config["model"]["hub"] = OmegaConf.to_container(OmegaConf.structured(HubSettings))
    expected = leaves(config, "") | {"evaluations": {}, "training.chosen": {}}
    for entry in TASKS.values():
        task = OmegaConf.to_container(OmegaConf.structured(entry))
        expected |= leaves(task, "task")
    assert len(expected) > 90
    assert sorted(set(expected) - set(shown)) == []
    assert set(shown) - set(expected) == {
        *("length", "noise", "coarse", "penalty_scale", "longest")  # of a stage
    }
    assert [key for key, (_, text) in shown.items() if not text.strip()] == []
    assert shown["training.learning_rate"] == (
        "0.004",
        "peak learning rate of AdamW. Above 0 and at most 1",
    )
    assert shown["hardware.threads"][0] == "null"
    assert "One of `gd`, `momentum`, `muon`" in shown["model.memory.optimizer"][1]


def test_every_choice_of_every_group_is_described(reference: ModuleType) -> None:
    page = reference.page()
    for group in ("model", "scale", "task", "text", "training", "hardware", "logger"):
        table = page.split(f"| `{group}=` | |\n")[1].split("\n\n")[0]
        choices = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", table, re.M))
        assert set(choices) == {path.stem for path in (folder_of("conf") / group).glob("*.yaml")}


def test_a_comment_above_and_one_behind_are_read(reference: ModuleType) -> None:
    @dataclass
    class Below:
        """Two keys."""

        # Above the first,
        # in two lines,
        first: int = 1  # and behind it.
        second: str = "# no comment"

    found = reference.comments(Below)
    assert found == {"first": "Above the first, in two lines, and behind it.", "second": ""}
