"""Test-time memory: its definition, the token-by-token recurrence and the chunk-parallel form."""

from atlas_bench.memory.chunkwise.forward import chunk_memory
from atlas_bench.memory.features import apply_features, feature_dim
from atlas_bench.memory.networks import init_parameters
from atlas_bench.memory.recurrent import recurrent_memory
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState

# Former names, which tests outside this repository use.
chunked = chunk_memory
reference = recurrent_memory

__all__ = [
    "Gates",
    "MemoryParameters",
    "MemorySpec",
    "MemoryState",
    "apply_features",
    "chunk_memory",
    "chunked",
    "feature_dim",
    "init_parameters",
    "recurrent_memory",
    "reference",
]
