"""What the pages about adding a model and a task say to write, put where they say to."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from docs_pages import REPOSITORY, blocks

from atlas_bench.config.locations import folder_of
from atlas_bench.tasks.registry import TASKS

FILE = re.compile(r"`((?:conf|atlas_bench)/[\w/]+\.(?:py|yaml))`")


def files_of(page: str) -> list[tuple[str, str]]:
    """Each fenced block with the file that is named last before it."""
    found, name = [], ""
    for block in blocks((REPOSITORY / "docs" / page).read_text(encoding="utf-8")):
        name = FILE.findall(block.before)[-1] if FILE.search(block.before) else name
        if block.language in ("python", "yaml"):
            found.append((name, block.text))
    return found


def follow(page: str, conf: Path) -> None:
    """Write the page's YAML below ``conf`` and do its lines of the registry in this process."""
    names: dict[str, object] = {}
    for name, text in files_of(page):
        if name.endswith(".yaml"):
            assert not (REPOSITORY / name).exists(), f"{name} is there already"
            (conf.parent / name).write_text(text, encoding="utf-8")
        elif name == "atlas_bench/tasks/registry.py" and "import" in text:
            exec(text, names)
        elif name == "atlas_bench/tasks/registry.py":
            TASKS.update(eval(f"{{{text}}}", names))
        else:
            module = types.ModuleType(name.removesuffix(".py").replace("/", "."))
            sys.modules[module.__name__] = module
            exec(compile(text, name, "exec"), module.__dict__)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory):
    """Both pages followed, in a copy of conf/."""
    conf = tmp_path_factory.mktemp("clone") / "conf"
    shutil.copytree(folder_of("conf"), conf)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("atlas_bench.") and hasattr(module, "folder_of"):
                patch.setattr(
                    module, "folder_of", lambda kind: conf if kind == "conf" else folder_of(kind)
                )
        before = dict(TASKS)
        follow("adding_a_model.md", conf)
        follow("adding_a_task.md", conf)
        yield conf
        TASKS.clear()
        TASKS.update(before)
        sys.modules.pop("atlas_bench.tasks.parity")
