"""Metrics: their units, which direction is better, and their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

SHARE = "share"
WILSON = "wilson"
UNITS_WITHOUT_SYMBOL = ("perplexity", "ratio")


@dataclass(frozen=True)
class Metric:
    """One kind of score. A task declares its metrics, a record carries those of its scores.

    A score with unit "share" lies between 0 and 1 and is shown in per cent; every other unit
    ("perplexity", "nats", "bits", "ratio") is shown as it is. ``interval`` says how the 95 %
    interval of a single run is computed: "wilson" for the mean of samples that each lie between
    0 and 1, None for no interval.
    Raises ValueError for an unknown interval, or a Wilson interval of anything but a share.
    """

    name: str
    unit: str = SHARE
    higher_is_better: bool = True
    interval: str | None = WILSON

    def __post_init__(self) -> None:
        if self.interval not in (WILSON, None):
            raise ValueError(f"interval of {self.name} is {self.interval!r}, not {WILSON!r}")
        if self.interval == WILSON and self.unit != SHARE:
            raise ValueError(f"{self.name} is in {self.unit}: only a share has a Wilson interval")

    @property
    def in_per_cent(self) -> bool:
        return self.unit == SHARE

    @property
    def scale(self) -> float:
        """What a value is multiplied by before it is shown."""
        return 100.0 if self.in_per_cent else 1.0

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """The name in words with the unit, unless the name says it: "exact match (%)"."""
        if self.in_per_cent:
            return f"{self.words} (%)"
        if self.unit in UNITS_WITHOUT_SYMBOL or self.unit in self.words:
            return self.words
        return f"{self.words} ({self.unit})"

    def format(self, value: float, digits: int = 1) -> str:
        """A share in per cent with ``digits`` decimals, any other unit with four digits."""
        if self.in_per_cent:
            return f"{100 * value:.{digits}f}"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    def score(self, value: float) -> float:
        """``value`` with the sign that makes higher better."""
        return value if self.higher_is_better else -value

    def bounds(self, total: float, samples: int) -> tuple[float | None, float | None]:
        """The interval of the mean ``total / samples``; (None, None) for a metric without one."""
        return wilson_interval(total, samples) if self.interval == WILSON else (None, None)


def lower(name: str, unit: str) -> Metric:
    """A metric without an interval for which lower is better."""
    return Metric(name, unit, higher_is_better=False, interval=None)


EXACT_MATCH = Metric("exact_match")
ACCURACY = Metric("accuracy")
MACRO_ACCURACY = Metric("macro_accuracy", interval=None)
PERPLEXITY = lower("perplexity", "perplexity")
WORD_PERPLEXITY = lower("word_perplexity", "perplexity")
BITS_PER_BYTE = lower("bits_per_byte", "bits")
POSITION_LOSS = lower("position_loss", "nats")  # its subtasks are ranges of positions


def metric_of_format_1(name: str) -> Metric:
    """What a record's metric was before records carried their metrics: the name decided."""
    for ending, unit in (
        ("perplexity", "perplexity"),
        ("bits_per_byte", "bits"),
        ("relative_loss", "ratio"),
        ("loss", "nats"),
    ):
        if name.endswith(ending):
            return lower(name, unit)
    return Metric(name)


def wilson_interval(correct: float, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), without continuity correction.

    ``correct`` may be a sum of partial credit; the interval is then wider than necessary.
    Unlike value +- 2 standard errors it stays between 0 and 1 and is not empty at 0 % and 100 %.
    Raises ValueError for impossible counts or an impossible confidence.
    """
    if not (samples > 0 and 0 <= correct <= samples):
        raise ValueError(f"{correct} correct of {samples} samples is not a proportion")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = correct / samples, z * z / samples
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / samples + weight / (4 * samples))
    # The ends are exact for none or all correct; rounding must not move them.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == samples else centre + half
    return low, high
