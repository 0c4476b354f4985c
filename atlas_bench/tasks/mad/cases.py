"""MAD's baselines and the changes to them, one factor at a time.

A subtask's score is the mean accuracy over its baseline and all its changes, and MAD's score the
mean of the six: report/published/.

Protocol: the repository of Poli et al. 2024 (configs/tasks/*.yml, mad/configs.py). A model is
trained and tested anew for every case and every learning rate x weight decay of the grid; the best
of the grid counts.
"""

from __future__ import annotations

from dataclasses import replace

from atlas_bench.naming import check_choice
from atlas_bench.tasks.mad.generators import Case

BASELINE = "baseline"
BASELINES = {
    "in_context_recall": Case(vocab=16, length=128),
    "fuzzy_recall": Case(vocab=16, length=128),
    "noisy_recall": Case(vocab=32, length=128, noise=0.2, noise_vocab=16),
    "selective_copying": Case(vocab=16, length=256, copies=16),
    "compression": Case(vocab=16, length=32),
    "memorization": Case(vocab=256, length=32, train_size=256),
}
_TRAIN_SIZES = (6400, 3200, 1600, 800)
_RECALL = {"vocab": (32, 64, 128), "length": (256, 512, 1024), "train_size": _TRAIN_SIZES}
CHANGES: dict[str, dict[str, tuple[float, ...]]] = {
    "in_context_recall": _RECALL,
    "fuzzy_recall": _RECALL,
    # the vocabulary includes the 16 tokens of noise
    "noisy_recall": _RECALL | {"vocab": (48, 80, 144), "noise": (0.4, 0.6, 0.8)},
    "selective_copying": _RECALL | {"length": (512, 1024), "copies": (32, 64, 96)},
    "compression": _RECALL | {"length": (64, 128, 256)},
    "memorization": {"vocab": (512, 1024, 2048, 4096, 8192)},
}
SUBTASKS = tuple(BASELINES)


def changes(subtask: str) -> list[str]:
    """The names of a subtask's cases: ``baseline``, ``vocab_32``, ``noise_0.4``, ..."""
    return [BASELINE] + [
        f"{factor}_{value}" for factor, values in CHANGES[subtask].items() for value in values
    ]


def make_case(subtask: str, change: str) -> Case:
    """The case of a name. Raises ValueError naming ``task.subtask`` or ``task.change``."""
    check_choice("task.subtask", subtask, SUBTASKS)
    check_choice("task.change", change, changes(subtask))
    if change == BASELINE:
        return BASELINES[subtask]
    factor = change.rsplit("_", 1)[0]
    value = next(v for v in CHANGES[subtask][factor] if f"{factor}_{v}" == change)
    return replace(BASELINES[subtask], **{factor: value})
