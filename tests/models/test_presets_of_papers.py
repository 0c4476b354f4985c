"""Presets beside what their papers say: docs/presets.yaml, conf/ and docs/fidelity.md agree."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from docs_pages import REPOSITORY
from omegaconf import OmegaConf
from presets import ANYWHERE, EACH_KIND, NEED_GPU

from atlas_bench.memory import MemorySpec
from atlas_bench.models.settings import ModelSettings, ScaleSettings

_SPEC = importlib.util.spec_from_file_location("docs_presets", REPOSITORY / "docs/presets.py")
docs: ModuleType = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(docs)
PAPERS = docs.papers()
FORMS = ({"is", "at"}, {"is", "silent"}, {"is", "paper", "because"})


def value(entry: dict[str, Any]) -> Any:
    """What the table says of a setting, also where it is a setting of the scale."""
    return OmegaConf.create({"scale": ScaleSettings, "value": entry["is"]})["value"]


def test_every_preset_has_a_paper() -> None:
    assert sorted(PAPERS) == sorted(ANYWHERE + NEED_GPU) == docs.presets()


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_a_preset_is_what_the_table_says(name: str) -> None:
    used = docs.settings_in_use(docs.preset(name))
    found = {setting: docs.entry_of(PAPERS, name, setting) for setting in used}
    assert [setting for setting, entry in found.items() if entry is None] == []
    assert {setting: value(entry) for setting, entry in found.items()} == used
    for setting, entry in PAPERS[name].items():
        if setting not in ("like", "source"):
            assert setting in used
            assert set(entry) in FORMS, setting


def test_every_mixer_that_runs_anywhere_has_a_preset_that_is_run() -> None:
    used = {mixer for name in EACH_KIND for mixer in docs.preset(name).mixers}
    assert used == {mixer for name in ANYWHERE for mixer in docs.preset(name).mixers}


def test_a_presets_name_is_in_its_settings() -> None:
    assert {name: docs.preset(name).name for name in PAPERS} == {name: name for name in PAPERS}


def test_atlas_takes_the_papers_newton_schulz_steps() -> None:
    """Trust A2: it was 1, and no page said so."""
    assert docs.preset("atlas").memory.newton_schulz_steps == 5


def test_the_page_holds_the_table() -> None:
    assert docs.page() == docs.PAGE.read_text(encoding="utf-8"), "run: python docs/presets.py"


def test_every_setting_of_a_memory_can_be_in_use() -> None:
    """So that a new field of MemorySpec gets its place in `settings_in_use`."""
    muon = {"features": "sketch", "window": 2, "optimizer": "muon"}
    bounded = {"bounded_step": True}
    moneta = {"objective": "lp", "retention": "lq", "branch_norm": True}
    members = (muon, bounded, moneta)
    models = [replace(ModelSettings(), memory=MemorySpec(**each)) for each in members]
    used = set().union(*map(docs.settings_in_use, models))
    assert {name for name in used if not name.startswith("model.")} == set(
        MemorySpec.__dataclass_fields__
    )
