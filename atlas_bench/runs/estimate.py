"""The cost of a command before it runs: one line per job. Nothing is run and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.learner import Cost, Learner
from atlas_bench.models.accounting import ESTIMATED_TOKENS
from atlas_bench.runs.checks import check_machine
from atlas_bench.runs.learners import learner_for
from atlas_bench.runs.settings import RunSettings

# Dense bfloat16 products of an H100, and the share of them that training reaches. The share is
# assumed, not measured: a well-fed Transformer reaches more, memories in small chunks less.
PEAK_FLOPS, UTILISATION = 989e12, 0.3
COLUMNS = (
    "job", "model", "scale", "seed", "parameters", "tokens", "FLOPs/token", "FLOPs", "GPU-hours",
    "evaluations",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of one job."""

    settings: RunSettings
    learner: Learner
    cost: Cost

    @property
    def flops(self) -> float | None:
        """FLOPs of the whole training; evaluation is not counted."""
        per_token = self.cost.flops_per_token
        return None if per_token is None else per_token * self.cost.tokens

    @property
    def gpu_hours(self) -> float | None:
        return None if self.flops is None else self.flops / (PEAK_FLOPS * UTILISATION) / 3600

    @property
    def evaluations(self) -> list[str]:
        """The tasks that are evaluated, the run's own task first."""
        if self.settings.mode == "train":
            return []
        tasks = [self.settings.task, *self.settings.evaluations.values()]
        return [task.summary() for task in tasks]


def estimate_jobs(jobs: Sequence[RunSettings]) -> Iterator[Estimate]:
    """One estimate for each job. Raises ConfigError for models that cannot be built."""
    costs: dict[str, Cost] = {}  # counting takes a second, and many jobs differ only in a rate
    for settings in jobs:
        learner, training = learner_for(settings), settings.training
        size = (settings.model, settings.scale, settings.task, settings.text, settings.mode)
        key = repr((*size, training.tokens, training.epochs, settings.hardware.device))
        try:
            if key not in costs:
                costs[key] = learner.cost()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        yield Estimate(settings, learner, costs[key])


def describe(settings: RunSettings) -> str:
    """Parameters, state and operations of the model.

    Raises ConfigError for a model that cannot be built.
    """
    check_machine(settings)
    try:
        return learner_for(settings).describe()
    except ValueError as error:
        raise ConfigError(str(error)) from error


def as_text(estimates: Sequence[Estimate]) -> str:
    """The estimates as a table, with their sum and what they assume."""
    rows = [COLUMNS, *(_row(number, estimate) for number, estimate in enumerate(estimates))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    hours = sum(estimate.gpu_hours or 0.0 for estimate in estimates)
    not_counted: dict[str, dict[str, None]] = {}  # names by reason, each once
    for estimate in estimates:
        if estimate.cost.missing:
            not_counted.setdefault(estimate.cost.missing, {})[estimate.learner.name] = None
    return "\n".join(
        [
            *table,
            *(f"? {', '.join(names)}: not counted: {why}" for why, names in not_counted.items()),
            f"{len(estimates)} jobs, {hours:,.2f} GPU-hours of training, at {UTILISATION:.0%} of "
            f"{PEAK_FLOPS / 1e12:.0f} TFLOP/s (an assumption; H100, bfloat16), FLOPs counted over "
            f"{ESTIMATED_TOKENS} tokens; evaluation is not counted",
        ]
    )


def _row(number: int, estimate: Estimate) -> tuple[str, ...]:
    cost, hours = estimate.cost, estimate.gpu_hours
    return (
        str(number),
        estimate.learner.name,
        estimate.learner.scale,
        str(estimate.settings.seed),
        "?" if cost.parameters is None else f"{cost.parameters:,}",
        f"{cost.tokens:,}",
        _short(cost.flops_per_token),
        _short(estimate.flops),
        "?" if hours is None else f"{hours:,.2f}",
        "; ".join(estimate.evaluations),
    )


def _short(number: float | None) -> str:
    return "?" if number is None else f"{number:.3g}"
