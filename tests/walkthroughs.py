"""What the pages say to write to add something, put where they say to."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from docs_pages import REPOSITORY, blocks

from atlas_bench.config.locations import folder_of

FILE = re.compile(r"`((?:conf|atlas_bench)/[\w/]+\.(?:py|yaml))`")
FOLLOWED = ("adding_a_model.md", "adding_a_task.md", "architecture.md")
REGISTRIES = {
    "atlas_bench/models/mixer.py": "MIXERS",
    "atlas_bench/tasks/registry.py": "TASKS",
    "atlas_bench/evaluation/evaluators.py": "EVALUATORS",
    "atlas_bench/tracking/__init__.py": "TRACKERS",
}


def files_of(page: str) -> list[tuple[str, str]]:
    """Each fenced block with the file that is named last before it."""
    found, name = [], ""
    for block in blocks((REPOSITORY / "docs" / page).read_text(encoding="utf-8")):
        name = FILE.findall(block.before)[-1] if FILE.search(block.before) else name
        if block.language in ("python", "yaml"):
            found.append((name, block.text))
    return found


def new_files() -> set[str]:
    """The files that the pages add to the repository."""
    return {name for page in FOLLOWED for name, _ in files_of(page)} - set(REGISTRIES)


def follow(
    page: str,
    patch: pytest.MonkeyPatch,
    *,
    conf: Path | None = None,
    only: tuple[str, ...] | None = None,
) -> None:
    """Write the page's files in this process and its YAML below ``conf``, and add its lines to the
    registries. ``only``: these files alone."""
    names: dict[str, object] = {}
    for name, text in files_of(page):
        if only is not None and name not in only:
            continue
        if name in REGISTRIES:
            _register(name, text, names, patch)
            continue
        assert not (REPOSITORY / name).exists(), f"{name} exists already"
        if name.endswith(".yaml"):
            (conf.parent / name).write_text(text, encoding="utf-8")
        else:
            module = types.ModuleType(_module(name))
            patch.setitem(sys.modules, module.__name__, module)
            exec(compile(text, name, "exec"), module.__dict__)


def _register(file: str, text: str, names: dict[str, object], patch: pytest.MonkeyPatch) -> None:
    """An import, kept in ``names``, or one line of the registry in ``file``."""
    assert text.count("\n") == 1, f"{file}: not one line: {text}"
    if text.startswith("from "):
        exec(text, names)
        return
    registry = getattr(importlib.import_module(_module(file)), REGISTRIES[file])
    for key, entry in eval(f"{{{text}}}", names).items():
        patch.setitem(registry, key, entry)


def _module(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory):
    """All pages followed, in a copy of conf/."""
    conf = tmp_path_factory.mktemp("clone") / "conf"
    shutil.copytree(folder_of("conf"), conf)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("atlas_bench.") and hasattr(module, "folder_of"):
                patch.setattr(
                    module, "folder_of", lambda kind: conf if kind == "conf" else folder_of(kind)
                )
        for page in FOLLOWED:
            follow(page, patch, conf=conf)
        yield conf
