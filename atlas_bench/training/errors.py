"""Errors of training."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one sentence."""
