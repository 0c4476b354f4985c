"""Suites of lm-eval tasks, zero-shot: the columns of the papers' tables and where they come from.

Commonsense and language modelling: Titans Table 1, ATLAS Table 2; in-context recall: ATLAS Table 5.
lm-eval's own definitions, but for three recall tasks of which it has only closed-book or
discrete-reasoning namesakes; those are ours (tasks/based_*.yaml and `recall.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas_bench.naming import check_choice
from atlas_bench.tasks.suites.recall import ANSWER_TOKENS, CONTEXT_TOKENS
from atlas_bench.tasks.task import Cell, TaskSettings, check_named
from atlas_bench.tasks.vocabulary import babilong_tokenizer
from atlas_bench.text.settings import TextSettings

DATA = ("fixtures", "hub")
FIXTURE = " (fixture)"  # behind every name that was scored on our stand-ins
ZERO_SHOT = "0-shot"  # what stands where other tasks have a length


@dataclass(frozen=True)
class Subtask:
    """``folder`` of lm-eval that defines it, None for ours; its metrics, and what they are here."""

    folder: str | None
    metrics: Mapping[str, str]


def _own(folder: str | None, metric: str) -> Subtask:
    return Subtask(folder, {metric: "accuracy"})


# As in the papers: HellaSwag and ARC-challenge are normalised by the answers' lengths.
SUBTASKS = {
    "wikitext": Subtask("wikitext", {"word_perplexity": "perplexity"}),
    "lambada_openai": Subtask("lambada", {"perplexity": "perplexity", "acc": "accuracy"}),
    "piqa": _own("piqa", "acc"),
    "hellaswag": _own("hellaswag", "acc_norm"),
    "winogrande": _own("winogrande", "acc"),
    "arc_easy": _own("arc", "acc"),
    "arc_challenge": _own("arc", "acc_norm"),
    "social_iqa": _own("siqa", "acc"),
    "boolq": _own("super_glue/boolq", "acc"),
    "swde": _own("swde", "contains"),
    "fda": _own("fda", "contains"),
    "squad_completion": _own("squad_completion", "contains"),
    "based_nq": _own(None, "contains"),
    "based_drop": _own(None, "contains"),
    "based_triviaqa": _own(None, "contains"),
}
# The papers' "Avg" is the plain mean of these accuracies.
AVERAGED = (
    "lambada_openai", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "social_iqa",
    "boolq",
)  # fmt: skip
AVERAGE = "average"


@dataclass
class SuiteSettings(TaskSettings):
    """Which lm-eval tasks, on which data."""

    name: str = "commonsense"
    # Tasks of lm-eval or ours.
    subtasks: list[str] = field(default_factory=lambda: ["wikitext", *AVERAGED])
    data: str = "fixtures"  # fixtures (stand-ins of ours, no result) | hub (the benchmark itself)
    limit: int | None = None  # documents of each subtask; null for all
    context_tokens: int = CONTEXT_TOKENS  # of the recall tasks that are cut around their answer
    max_length: int | None = None  # tokens a model may see; null for whatever a text has


def check_suite(task: SuiteSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for a suite that cannot be run."""
    check_choice("task.data", task.data, DATA)
    check_named(task, "subtasks")
    for subtask in task.subtasks:
        check_choice("task.subtasks", subtask, SUBTASKS)
    for key, least in (("limit", 1), ("max_length", 2), ("context_tokens", ANSWER_TOKENS + 1)):
        value = getattr(task, key)
        if value is not None and value < least:
            raise ValueError(f"task.{key}={value} must be at least {least}")


class SuiteTask:
    """A `Task` that lm-eval asks and judges; evaluation/suites.py lets it."""

    def __init__(
        self, settings: SuiteSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        self.settings = settings
        self.tokenizer = babilong_tokenizer(text.tokenizer, text.vocab_size)
        self.vocab_size = self.tokenizer.vocab_size
        self.versions: dict[str, str] = {}  # of lm-eval's definitions, once they are loaded

    def cells(self) -> list[Cell]:
        """Every subtask once."""
        return [self.cell(subtask) for subtask in self.settings.subtasks]

    def cell(self, subtask: str) -> Cell:
        """A subtask's cell, or the average's; its name says where it is no benchmark."""
        shown = subtask + FIXTURE if self.settings.data == "fixtures" else subtask
        return Cell(shown, ZERO_SHOT, 0)

    def protocol(self) -> dict[str, Any]:
        """The data, lm-eval's metrics behind ours, and what was cut."""
        settings = self.settings
        facts: dict[str, Any] = {
            "data": "our own fixtures, no benchmark" if settings.data == "fixtures" else "hub",
            "few_shot_examples": 0,
            "limit": settings.limit,
            "max_length": settings.max_length,
            "lm_eval_task_versions": self.versions,
            "metrics": {subtask: list(SUBTASKS[subtask].metrics) for subtask in settings.subtasks},
        }
        if any(SUBTASKS[subtask].folder is None for subtask in settings.subtasks):
            facts["context_tokens"] = settings.context_tokens
        return facts
