"""Held-out text in windows of one length, and the ranges of positions that losses are reported for.

Legend: R rows of T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FIRST_BUCKET = 256  # positions; every further range is as long as all before it


@dataclass(frozen=True)
class Windows:
    """Held-out text as the arrays of a batch, (R, T).

    ``full`` (R,) bool: the row is one window of full length, which lies in one document where
    memory is reset at documents.
    """

    inputs: np.ndarray
    targets: np.ndarray
    answer_mask: np.ndarray
    starts: np.ndarray
    full: np.ndarray


def held_out_windows(tokens: np.ndarray, begins: np.ndarray, length: int, end_id: int) -> Windows:
    """``tokens`` cut at ``begins``, then into windows of ``length``. Rows are filled greedily: the
    longest windows first, each in the first row with room."""
    ends = np.append(begins[1:], len(tokens))
    pieces = [
        (min(length, int(end) - 1 - at), at)
        for begin, end in zip(begins, ends, strict=True)
        for at in range(int(begin), int(end) - 1, length)
    ]
    pieces.sort(key=lambda piece: -piece[0])
    rows: list[list[tuple[int, int]]] = []
    room: list[int] = []
    for size, at in pieces:
        place = next((row for row, left in enumerate(room) if left >= size), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(length)
        rows[place].append((size, at))
        room[place] -= size
    shape = (len(rows), length)
    inputs, targets = np.full(shape, end_id, np.int32), np.full(shape, end_id, np.int32)
    starts = np.zeros(shape, dtype=bool)
    for row, content in enumerate(rows):
        column = 0
        for size, at in content:
            inputs[row, column : column + size] = tokens[at : at + size]
            targets[row, column : column + size] = tokens[at + 1 : at + size + 1]
            starts[row, column] = True
            column += size
    full = np.array([content[0][0] == length for content in rows])
    return Windows(inputs, targets, targets != end_id, starts, full)


def buckets(length: int, first: int = FIRST_BUCKET) -> Iterator[tuple[int, int]]:
    """The ranges [0, first), [first, 2 first), [2 first, 4 first), ... of ``length`` positions."""
    low, high = 0, first
    while low < length:
        yield low, min(high, length)
        low, high = high, 2 * high


def bucket_name(low: int, high: int) -> str:
    """``256-511`` for positions [256, 512)."""
    return f"{low}-{high - 1}"
