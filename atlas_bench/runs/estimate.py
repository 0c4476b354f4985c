"""What a command would do and cost: one line a job, nothing run and nothing written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from atlas_bench.config.errors import ConfigError
from atlas_bench.models.accounting import COUNTED_TOKENS, account
from atlas_bench.models.accounting import as_text as account_text
from atlas_bench.models.language_model import count_parameters
from atlas_bench.models.mixer import unavailable_reason
from atlas_bench.models.settings import ScaleSettings
from atlas_bench.runs.checks import check_machine
from atlas_bench.runs.settings import RunSettings, model_name, scale_name
from atlas_bench.tasks.task import ONLINE
from atlas_bench.training.online import build_learner

# Of the estimate: an H100's dense bfloat16 products, and the share of them that training reaches.
# Assumed, not measured: a well-fed Transformer reaches more, memories in small chunks less.
PEAK_FLOPS, UTILISATION = 989e12, 0.3
ONE_STEP_A_TOKEN = "one step a token takes the time of reading the weights, not that of products"


@dataclass(frozen=True)
class Estimate:
    """Of one job. ``parameters`` and ``flops_per_token`` are None where ``missing`` says why."""

    settings: RunSettings
    tokens: int
    parameters: int | None
    flops_per_token: float | None
    missing: str | None = None

    @property
    def flops(self) -> float | None:
        """Of the whole training; evaluation is not counted."""
        return None if self.flops_per_token is None else self.flops_per_token * self.tokens

    @property
    def gpu_hours(self) -> float | None:
        return None if self.flops is None else self.flops / (PEAK_FLOPS * UTILISATION) / 3600

    @property
    def evaluations(self) -> list[str]:
        """What is asked, the run's own task first."""
        if self.settings.mode == "train":
            return []
        asked = [self.settings.task, *self.settings.evaluations.values()]
        return [task.summary() for task in asked]


def estimate_jobs(jobs: Sequence[RunSettings]) -> Iterator[Estimate]:
    """One estimate a job. Raises ConfigError for models that cannot be built."""
    accounts: dict[str, tuple[int, float]] = {}
    tokens: dict[str, int] = {}
    for settings in jobs:
        training, task = settings.training, settings.task
        if task.kind == ONLINE:
            parameters = count_parameters(build_learner(task, settings.seed, 1))
            yield Estimate(settings, task.length, parameters, None, ONE_STEP_A_TOKEN)
            continue
        key = repr((training.tokens, training.epochs, task, settings.mode))
        if key not in tokens:
            tokens[key] = _tokens(settings)
        spent = tokens[key]
        reason = unavailable_reason(settings.model, settings.hardware.device)
        if settings.model.hub is not None:
            reason = "a pretrained model is not looked at"
        if reason is not None:
            yield Estimate(settings, spent, None, None, reason)
            continue
        vocab_size = task.vocabulary_size(settings.text)
        readout = task.readout
        key = repr((settings.model, settings.scale, vocab_size, readout))
        if key not in accounts:
            accounts[key] = _account(settings, vocab_size, readout)
        yield Estimate(settings, spent, *accounts[key])


def _tokens(settings: RunSettings) -> int:
    """Training tokens, also where the budget is in passes over a training set."""
    training = settings.training
    if settings.mode == "eval":
        return 0
    if training.epochs is None:
        return training.tokens
    task = settings.task.make(settings.text, seed=settings.seed, question_every=1)
    return round(training.epochs * task.epoch_tokens)


def _account(settings: RunSettings, vocab_size: int, readout: str) -> tuple[int, float]:
    """Parameters, and FLOPs a token in training."""

    def count(scale: ScaleSettings) -> tuple[int, float]:
        found = account(settings.model, scale, vocab_size=vocab_size, readout=readout)
        return found.total, found.training_operations

    try:
        return grown(settings, count)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def grown(
    settings: RunSettings, count: Callable[[ScaleSettings], tuple[int, float]]
) -> tuple[int, float]:
    """What ``count`` would say of the whole model, from models of one and of two turns of its
    mixers: further turns add what the second did, and to count 24 layers takes a minute."""
    scale, turn = settings.scale, len(settings.model.mixers)
    turns, rest = divmod(scale.layers, turn)
    if rest or turns <= 2:
        return count(scale)
    one, two = (count(replace(scale, layers=layers)) for layers in (turn, 2 * turn))
    return tuple(a + (turns - 1) * (b - a) for a, b in zip(one, two, strict=True))


def as_text(found: Sequence[Estimate]) -> str:
    """The estimates as a table, with their sum and what they assume."""
    lines = [("job", "model", "scale", "seed", "parameters", "tokens", "FLOPs/token", "FLOPs",
              "GPU-hours", "evaluations")]  # fmt: skip
    for number, each in enumerate(found):
        settings = each.settings
        lines.append(
            (
                str(number),
                model_name(settings),
                scale_name(settings),
                str(settings.seed),
                "?" if each.parameters is None else f"{each.parameters:,}",
                f"{each.tokens:,}",
                _short(each.flops_per_token),
                _short(each.flops),
                "?" if each.gpu_hours is None else f"{each.gpu_hours:,.2f}",
                "; ".join(each.evaluations),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    known = [each.gpu_hours for each in found if each.gpu_hours is not None]
    missing: dict[str, dict[str, None]] = {}  # names by reason, each once
    for each in found:
        if each.missing:
            missing.setdefault(each.missing, {})[model_name(each.settings)] = None
    return "\n".join(
        [
            *table,
            *(f"? {', '.join(each)}: not counted: {reason}" for reason, each in missing.items()),
            f"{len(found)} jobs, {sum(known):,.2f} GPU-hours of training, at {UTILISATION:.0%} of "
            f"{PEAK_FLOPS / 1e12:.0f} TFLOP/s (an assumption; H100, bfloat16), FLOPs counted over "
            f"{COUNTED_TOKENS} tokens; evaluation is not counted",
        ]
    )


def _short(number: float | None) -> str:
    return "?" if number is None else f"{number:.3g}"


def describe(settings: RunSettings) -> str:
    """Parameters, state and operations of the model, by models/accounting.py; runs nothing.

    Raises ConfigError for a model that cannot be built.
    """
    check_machine(settings)
    if settings.task.kind == ONLINE:
        learner = build_learner(settings.task, settings.seed, 1)
        return (
            f"{model_name(settings)} at {scale_name(settings)}: {count_parameters(learner):,} "
            f"parameters\n  state of one sequence in float32, bytes: {learner.state_bytes(1, 0):,}"
        )
    # of tasks without text their own
    vocab_size = settings.task.vocabulary_size(settings.text)
    readout = settings.task.readout
    try:
        found = account(settings.model, settings.scale, vocab_size=vocab_size, readout=readout)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return account_text(f"{settings.model.name} at {settings.scale.name}", found)
