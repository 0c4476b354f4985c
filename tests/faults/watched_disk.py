"""File operations below a folder, one by one: to copy it before each, to lose power, to fail one.

Python reports every operation to audit hooks, which may also refuse it by raising. What is written
by other means, safetensors' files and fsync, is watched by replacing the function.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from atlas_bench.artifacts import checkpoint

Operation = tuple[str, Path]  # its kind, and the path that it writes, renames, removes or syncs
Tree = dict[str, bytes | None]  # relative path -> content; None is a folder

_KINDS = {
    "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir",
    "shutil.rmtree": "rmtree",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watched: list[tuple[Path, Callable[[Operation], None]]] = []


def _audit(event: str, arguments: tuple) -> None:
    if not _watched or (event != "open" and event not in _KINDS):
        return
    path = arguments[0]
    if event == "open":
        if not isinstance(path, str | bytes | os.PathLike) or not arguments[2] & _WRITES:
            return
        kind = "append" if arguments[2] & os.O_APPEND else "write"
    else:
        kind = _KINDS[event]
    _report(kind, Path(os.fsdecode(path)), arguments)


def _report(kind: str, path: Path, arguments: tuple = ()) -> None:
    if not path.is_absolute():  # relative to an open folder, inside shutil.rmtree
        folder = arguments[-1] if kind in ("remove", "rmdir", "mkdir", "rename") else -1
        path = Path(os.getcwd() if folder < 0 else os.readlink(f"/proc/self/fd/{folder}"), path)
    for root, called in list(_watched):
        if path.is_relative_to(root):
            _watched.clear()  # what the hook itself does is not reported
            try:
                called((kind, path))
            finally:
                _watched.append((root, called))


_installed = False


@contextlib.contextmanager
def watching(root: Path, called: Callable[[Operation], None]) -> Iterator[None]:
    """Call ``called`` before every operation that changes what is below ``root``."""
    global _installed
    if not _installed:
        sys.addaudithook(_audit)  # cannot be removed; does nothing while nothing is watched
        _installed = True
    fsync, save_file = os.fsync, checkpoint.save_file

    def watched_fsync(descriptor: int) -> None:
        _report("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_save(tensors: dict, path: Path) -> None:
        _report("write", Path(path))
        save_file(tensors, path)

    _watched.append((root, called))
    try:
        with (
            mock.patch.object(os, "fsync", watched_fsync),
            mock.patch.object(checkpoint, "save_file", watched_save),
        ):
            yield
    finally:
        _watched.clear()


# trees --------------------------------------------------------------------------------------


def read_tree(root: Path) -> Tree:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def write_tree(tree: Tree, root: Path) -> None:
    for name, content in tree.items():
        path = root / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)


def digest(tree: Tree) -> str:
    found = hashlib.sha256()
    for name, content in sorted(tree.items()):
        found.update(f"{name}\0".encode() + (b"/" if content is None else content) + b"\0")
    return found.hexdigest()


@dataclass
class Crashes:
    """What a process that is killed before each operation leaves below ``root``.

    A file that was being written is also left with half of its new bytes.
    """

    root: Path
    trees: dict[str, tuple[str, Tree]] = field(
        default_factory=dict
    )  # by digest; at which operation
    writing: Path | None = None
    written: int = 0  # bytes of `writing` that were there before

    def __call__(self, operation: Operation) -> None:
        kind, path = operation
        tree = read_tree(self.root)
        self._add(operation, tree)
        if self.writing is not None and self.writing.is_file():
            name = self.writing.relative_to(self.root).as_posix()
            half = tree[name][: (self.written + len(tree[name])) // 2]
            self._add(operation, {**tree, name: half})
        self.writing = path if kind in ("write", "append") else None
        self.written = path.stat().st_size if kind == "append" and path.is_file() else 0

    def _add(self, operation: Operation, tree: Tree) -> None:
        where = f"{operation[0]} {operation[1].relative_to(self.root)}"
        self.trees.setdefault(digest(tree), (where, tree))


@dataclass
class PowerCuts:
    """What is on disk when the power goes before each operation, where only fsync writes to disk.

    A file has the bytes of its last fsync, a folder the names of its last fsync. Real file systems
    lose less. Files and folders that were synced stay open, so that no number is used again.
    """

    root: Path
    trees: dict[str, tuple[str, Tree]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    names: dict[int, dict[str, tuple[int, bool]]] = field(default_factory=dict)
    held: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sync(self.root)

    def __call__(self, operation: Operation) -> None:
        tree = self._on_disk(os.stat(self.root).st_ino, "")
        where = f"{operation[0]} {operation[1].relative_to(self.root)}"
        self.trees.setdefault(digest(tree), (where, tree))
        if operation[0] == "fsync":  # on disk from the next operation on
            self._sync(operation[1])

    def _sync(self, path: Path) -> None:
        self._hold(path)
        if path.is_file():
            self.contents[os.stat(path).st_ino] = path.read_bytes()
            return
        entries = {}
        for each in path.iterdir():
            found = self._hold(each)
            entries[each.name] = (found.st_ino, stat.S_ISDIR(found.st_mode))
        self.names[os.stat(path).st_ino] = entries

    def _hold(self, path: Path) -> os.stat_result:
        found = os.stat(path)
        if found.st_ino not in self.held:
            self.held[found.st_ino] = os.open(path, os.O_RDONLY)
        return found

    def _on_disk(self, folder: int, prefix: str) -> Tree:
        tree: Tree = {}
        for name, (number, is_folder) in self.names.get(folder, {}).items():
            tree[prefix + name] = None if is_folder else self.contents.get(number, b"")
            if is_folder:
                tree |= self._on_disk(number, f"{prefix}{name}/")
        return tree

    def close(self) -> None:
        for descriptor in self.held.values():
            os.close(descriptor)
        self.held.clear()
