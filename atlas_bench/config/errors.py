"""Errors of the configuration."""

from __future__ import annotations


class ConfigError(ValueError):
    """The configuration asks for something impossible; the message is one sentence."""
