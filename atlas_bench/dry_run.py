"""What a command would do and cost: one line a job, nothing run and nothing written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from atlas_bench.config import ConfigError, RunSettings
from atlas_bench.memory.fla import why_not
from atlas_bench.models.accounting import COUNTED_TOKENS, Account, account
from atlas_bench.models.settings import needs_library
from atlas_bench.tasks.registry import make_task
from atlas_bench.tasks.task import TaskSettings

# Of the estimate: an H100's dense bfloat16 products, and the share of them that training reaches.
# Assumed, not measured: a well-fed Transformer reaches more, memories in small chunks less.
PEAK_FLOPS, UTILISATION = 989e12, 0.3


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
        return [_asked(task) for task in asked]


def estimate_jobs(jobs: Sequence[RunSettings]) -> Iterator[Estimate]:
    """One estimate a job. Raises ConfigError for models that cannot be built."""
    accounts: dict[str, Account] = {}
    tokens: dict[str, int] = {}
    for settings in jobs:
        training, task = settings.training, settings.task
        key = repr((training.tokens, training.epochs, task, settings.mode))
        if key not in tokens:
            tokens[key] = _tokens(settings)
        spent = tokens[key]
        reason = why_not() if needs_library(settings.model) else None
        if settings.model.hub is not None:
            reason = "a pretrained model is not looked at"
        if reason is not None:
            yield Estimate(settings, spent, None, None, reason)
            continue
        vocab_size = getattr(task, "vocab_size", settings.text.vocab_size)
        readout = getattr(task, "readout", "next")
        key = repr((settings.model, settings.scale, vocab_size, readout))
        if key not in accounts:
            accounts[key] = _account(settings, vocab_size, readout)
        found = accounts[key]
        yield Estimate(settings, spent, found.total, found.training_operations)


def _tokens(settings: RunSettings) -> int:
    """Training tokens, also where the budget is in passes over a training set."""
    training = settings.training
    if settings.mode == "eval":
        return 0
    if training.epochs is None:
        return training.tokens
    task = make_task(settings.task, settings.text, seed=settings.seed, question_every=1)
    return round(training.epochs * task.epoch_tokens)


def _account(settings: RunSettings, vocab_size: int, readout: str) -> Account:
    """Counted on models of one and of two turns of the mixers: further turns add what the second
    did, and a model of 24 layers takes a minute to count."""
    model, scale = settings.model, settings.scale
    count = partial(account, model, vocab_size=vocab_size, readout=readout)
    turns, rest = divmod(scale.layers, len(model.mixers))
    try:
        if rest or turns <= 2:
            return count(scale)
        one, two = (count(replace(scale, layers=n * len(model.mixers))) for n in (1, 2))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    more = turns - 1

    def grown(first: float, second: float) -> float:
        return first + more * (second - first)

    return replace(
        one,
        parameters={k: grown(v, two.parameters[k]) for k, v in one.parameters.items()},
        state_bytes={k: grown(v, two.state_bytes[k]) for k, v in one.state_bytes.items()},
        forward_operations=grown(one.forward_operations, two.forward_operations),
        training_operations=grown(one.training_operations, two.training_operations),
    )


def _asked(task: TaskSettings) -> str:
    """A task with its subtasks and lengths, in a few words."""
    subtasks = getattr(task, "subtasks", None) or [getattr(task, "subtask", None)]
    named = f"{len(subtasks)} subtasks" if len(subtasks) > 2 else " ".join(filter(None, subtasks))
    words = [task.name, named, *getattr(task, "lengths", [])]
    return " ".join(word for word in words if word)


def as_text(found: Sequence[Estimate]) -> str:
    """The estimates as a table, with their sum and what they assume."""
    lines = [("job", "model", "scale", "seed", "parameters", "tokens", "FLOPs/token", "FLOPs",
              "GPU-hours", "evaluations")]  # fmt: skip
    for number, each in enumerate(found):
        settings = each.settings
        lines.append(
            (
                str(number),
                settings.model.name,
                settings.scale.name,
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
    missing = {each.settings.model.name: each.missing for each in found if each.missing}
    return "\n".join(
        [
            *table,
            *(f"? {name}: not counted: {reason}" for name, reason in missing.items()),
            f"{len(found)} jobs, {sum(known):,.2f} GPU-hours of training, at {UTILISATION:.0%} of "
            f"{PEAK_FLOPS / 1e12:.0f} TFLOP/s (an assumption; H100, bfloat16), FLOPs counted over "
            f"{COUNTED_TOKENS} tokens; evaluation is not counted",
        ]
    )


def _short(number: float | None) -> str:
    return "?" if number is None else f"{number:.3g}"
