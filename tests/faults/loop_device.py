"""A file system on a loop device: what lies on the device when the power goes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from watched_disk import Operation, Tree, digest, read_tree

SIZE = 32 * 2**20  # bytes
MADE_BY_MKFS = "lost+found"


@dataclass
class LoopDevice:
    """The device as it is before each operation below ``root``, where it is mounted.

    What the kernel still holds in memory is not on it. A copy of the device is mounted as after a
    power cut, so its journal is replayed.
    """

    image: Path
    root: Path
    # By digest: at which operation, and the copy.
    copies: dict[str, tuple[str, Path]] = field(default_factory=dict)

    def __call__(self, operation: Operation) -> None:
        found = hashlib.blake2b(self.image.read_bytes()).hexdigest()
        if found in self.copies:
            return
        copy = self.image.with_name(f"cut-{len(self.copies)}.img")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        self.copies[found] = (f"{operation[0]} {operation[1].relative_to(self.root)}", copy)

    @property
    def trees(self) -> dict[str, tuple[str, Tree]]:
        """What is found on each copy, by digest, and at which operation."""
        found = {}
        for where, copy in self.copies.values():
            with mounted(copy, self.image.with_name("after")) as after:
                tree = read_tree(after)
            tree.pop(MADE_BY_MKFS)
            found.setdefault(digest(tree), (where, tree))
        return found


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[LoopDevice]:
    """An empty one, where mounting is allowed."""
    image = tmp_path / "device.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with ExitStack() as stack:
        try:
            root = stack.enter_context(mounted(image, tmp_path / "disk"))
        except subprocess.CalledProcessError:
            pytest.skip("mounting is not allowed")
        yield LoopDevice(image, root)
