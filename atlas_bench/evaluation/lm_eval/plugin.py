"""How `lm_eval --model atlas_bench` finds our models.

lm-eval after 0.4.13 reads the entry point group `lm_eval.models`, which pyproject.toml names too.
0.4.13 has a fixed list of models and no hook. It imports torch before it looks a model up, and
torch (2.5 and later) then calls the entry points of `torch.backends`: `register`. This module
imports nothing, because it runs in every program of the environment that uses torch.
"""

from __future__ import annotations

import sys

TARGET = "atlas_bench.evaluation.lm_eval.model:AtlasBenchLM"


def register() -> None:
    """Register the model in a process that lm-eval's command line started; else do nothing."""
    if "lm_eval" not in sys.modules:
        return
    import lm_eval.models  # noqa: F401  its own list, which it makes only while there is none
    from lm_eval.api.registry import model_registry

    if "atlas_bench" not in model_registry:
        model_registry.register("atlas_bench", target=TARGET)
