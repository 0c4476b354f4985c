"""The user's cache: a file has the SHA-256 of its content in its name; a damaged one is unused."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from atlas_bench.artifacts.folder import replacing
from atlas_bench.config.errors import ConfigError

log = logging.getLogger(__name__)


def cache_directory() -> Path:
    """``$ATLAS_BENCH_CACHE``, else ``atlas-bench`` in the XDG cache (usually ``~/.cache``).

    Raises ConfigError for a user without a home.
    """
    own = os.environ.get("ATLAS_BENCH_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(own).expanduser() if own else Path(shared).expanduser() / "atlas-bench"
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home folder for the cache; set ATLAS_BENCH_CACHE=FOLDER"
        ) from error


def find_cached(name: Path) -> Path | None:
    """The undamaged file that was kept as ``name``; a damaged one is logged."""
    for path in name.parent.glob(f"{name.stem}-*{name.suffix}"):
        try:
            if path == _with_hash(name, path.read_bytes()):
                return path
        except OSError:
            continue
        log.warning("%s is damaged and is made again", path)
    return None


def keep(name: Path, content: bytes) -> Path:
    """Write ``content`` beside ``name``, in one step; returns the path, with the hash."""
    path = _with_hash(name, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _with_hash(name: Path, content: bytes) -> Path:
    return name.with_name(f"{name.stem}-{hashlib.sha256(content).hexdigest()[:16]}{name.suffix}")
