"""Where the package keeps its YAML files."""

from __future__ import annotations

from pathlib import Path


def folder_of(kind: str) -> Path:
    """`conf` or `tasks`: in a clone beside the package, in an installed wheel inside it."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data" / kind
    return installed if installed.is_dir() else package.parent / kind
