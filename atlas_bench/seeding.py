"""Random numbers decided by names and numbers alone, the same in every process and everywhere."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def seeded(*parts: object) -> random.Random:
    """Python's generator, for choices one at a time."""
    return random.Random(_number(parts))


def generator(*parts: object) -> np.random.Generator:
    """numpy's, for many numbers at once."""
    return np.random.Generator(np.random.PCG64(_number(parts)))


def _number(parts: tuple[object, ...]) -> int:
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:16], "big")
