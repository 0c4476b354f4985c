"""The cache: what was changed on disk is not used (A5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas_bench.config.errors import ConfigError
from atlas_bench.text.cache import cache_directory, find_cached, keep


def test_a_changed_file_is_not_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = tmp_path / "folder/name.txt"
    assert find_cached(name) is None
    path = keep(name, b"content")
    assert find_cached(name) == path
    path.write_bytes(b"Content")
    assert find_cached(name) is None
    assert f"{path} is damaged and is made again" in caplog.text
    assert keep(name, b"content") == path == find_cached(name)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ATLAS_BENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(ConfigError, match="set ATLAS_BENCH_CACHE=FOLDER"):
        cache_directory()
