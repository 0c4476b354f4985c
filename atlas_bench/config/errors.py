"""Errors of the configuration."""

from __future__ import annotations


class ConfigError(ValueError):
    """The input asks for something impossible; the message is one sentence."""
