"""Metrics: their units, which direction is better, and their intervals."""

from __future__ import annotations

import math
from statistics import NormalDist, mean

from atlas_bench.artifacts.schema import Record

# Metrics that are no shares of a whole: lower is better and there is no per cent.
NO_SHARES = ("perplexity", "loss", "bits_per_byte")


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1 and is shown in per cent."""
    return not metric.endswith(NO_SHARES)


def wilson_interval(correct: float, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), without continuity correction.

    ``correct`` may be a sum of partial credit, for which the interval is wider than need be.
    Unlike value +- 2 standard errors it stays between 0 and 1 and is not empty at 0 % and 100 %.
    Raises ValueError for counts or a confidence that cannot be.
    """
    if not (samples > 0 and 0 <= correct <= samples):
        raise ValueError(f"{correct} correct of {samples} samples is no proportion")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = correct / samples, z * z / samples
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    # The ends are exact where nothing or everything is right; rounding must not say otherwise.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == samples else centre + half
    return low, high


def validation_score(record: Record) -> float | None:
    """Mean over subtasks and lengths of the first metric, negative where lower is better.

    None for a run without validation samples.
    """
    if not record.validation:
        return None
    metric = record.validation[0].metric
    value = mean(score.value for score in record.validation if score.metric == metric)
    return value if is_share(metric) else -value
