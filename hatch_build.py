"""Writes the commit into the wheel and the source archive; the records of runs name it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "atlas_bench/_data/commit.txt"
DESCRIBE = ["describe", "--always", "--dirty", "--abbrev=40"]


class CommitHook(BuildHookInterface):
    """Adds FILE. An archive without git that is built again keeps the file that it has."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        commit = commit_of(Path(self.root))
        if version == "editable" or commit is None:
            return
        written = Path(self.directory) / "commit.txt"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(f"{commit}\n", encoding="utf-8")
        build_data["force_include"][str(written)] = FILE

    def finalize(self, *_: Any) -> None:
        (Path(self.directory) / "commit.txt").unlink(missing_ok=True)


def commit_of(root: Path) -> str | None:
    """The commit of ``root``, with ``-dirty`` if a file is changed; None if git has none of it."""
    git = ["git", "-C", str(root)]
    try:
        for arguments in (["ls-files", "--error-unmatch", "hatch_build.py"], DESCRIBE):
            done = subprocess.run([*git, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
