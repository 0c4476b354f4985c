"""Fifteen tiny runs leave the metrics, predictions and records that they left when frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
from frozen_files import collect, differences, message, read_frozen, same_machine
from golden_runs import GOLDENS, run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all runs, so that one can evaluate the checkpoint of another."""
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("name", GOLDENS)
def test_a_run_leaves_what_was_frozen(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    golden = GOLDENS[name]
    if name.startswith("hub_"):
        pytest.importorskip("transformers")
    if golden.needs is not None and not (workplace / golden.needs).is_dir():
        run(golden.needs)
    if not (workplace / name).is_dir():
        run(name)
    files = [read_frozen(golden.equals or name), collect(workplace / name)]
    if golden.equal_files is not None:
        files = [{key: each[key] for key in golden.equal_files} for each in files]
    found = differences(*files, resumed=golden.stop_at_step is not None, exact=same_machine())
    assert not found, message(name, found)


@pytest.mark.parametrize(
    ("old", "new", "everywhere"),
    [
        ('"gradient_norm": ', '"gradient_norm": 1', False),  # a digit before the others
        ('"step": 2', '"step": 3', True),
        ('"length_tokens": ', '"length": ', True),
        ('"samples": 20', '"samples": 21', True),
    ],
)
def test_a_difference_is_found(old: str, new: str, everywhere: bool) -> None:
    frozen = read_frozen("mqar_deltanet")
    changed = {name: text.replace(old, new, 1) for name, text in frozen.items()}
    assert changed != frozen
    assert not differences(frozen, frozen, exact=True)
    assert differences(frozen, changed, exact=True)
    assert bool(differences(frozen, changed, exact=False)) is everywhere
