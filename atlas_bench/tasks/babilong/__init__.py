"""BABILong: bAbI questions whose facts are scattered through long background text."""

from atlas_bench.tasks.babilong.metrics import exact_match, published_metric
from atlas_bench.tasks.babilong.samples import build_sample, evaluation_samples
from atlas_bench.tasks.lengths import context_tokens, format_length, parse_length

__all__ = [
    "build_sample",
    "context_tokens",
    "evaluation_samples",
    "exact_match",
    "format_length",
    "parse_length",
    "published_metric",
]
