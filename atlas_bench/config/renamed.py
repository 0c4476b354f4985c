"""Config keys that have a new name."""

from __future__ import annotations

# Old key -> new key. `[]` stands for every entry of a list.
RENAMED_KEYS = {
    "training.min_streams": "training.min_sequences",
    "training.curriculum.stages[].price": "training.curriculum.stages[].penalty_scale",
    "hardware.piece_tokens": "hardware.prefill_chunk",
}


def rename_message(key: str) -> str | None:
    """One sentence that names the new key; None for a key that was not renamed."""
    new_key = RENAMED_KEYS.get(key)
    return None if new_key is None else f"{key} is now {new_key}"
