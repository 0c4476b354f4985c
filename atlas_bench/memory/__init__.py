"""Test-time memory: one definition, its token-by-token reference and its chunk-parallel form."""

from atlas_bench.memory.chunked import chunked
from atlas_bench.memory.features import apply_features, feature_dim
from atlas_bench.memory.networks import init_parameters
from atlas_bench.memory.newton_schulz import newton_schulz
from atlas_bench.memory.reference import reference
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState

__all__ = [
    "Gates",
    "MemoryParameters",
    "MemorySpec",
    "MemoryState",
    "apply_features",
    "chunked",
    "feature_dim",
    "init_parameters",
    "newton_schulz",
    "reference",
]
