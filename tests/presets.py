"""The presets of conf/model, and those among them that run without a GPU."""

from __future__ import annotations

from omegaconf import OmegaConf

from atlas_bench.config import folder_of
from atlas_bench.models.settings import ModelSettings, needs_library

_FILES = {path.stem: path for path in sorted((folder_of("conf") / "model").glob("*.yaml"))}


def _needs_gpu(name: str) -> bool:
    mixers = OmegaConf.load(_FILES[name]).get("mixers", [])
    return needs_library(ModelSettings(mixers=list(mixers)))


NEED_GPU = [name for name in _FILES if _needs_gpu(name)]
ANYWHERE = [name for name in _FILES if name not in NEED_GPU]
