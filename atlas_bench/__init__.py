"""atlas-bench: train, evaluate and compare sequence models with test-time memory."""

__version__ = "0.1.0"
