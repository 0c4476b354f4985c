"""Suites of lm-eval tasks, zero-shot: the columns of the papers' tables.

Commonsense and language modelling: Titans Table 1, ATLAS Table 2; in-context recall: ATLAS Table 5.
The definitions are lm-eval's own, except for three recall tasks: lm-eval has tasks of the same
name that are closed-book or about discrete reasoning, so these are ours (tasks/based_*.yaml and
`recall.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atlas_bench.artifacts.metrics import ACCURACY, PERPLEXITY
from atlas_bench.config.bounds import bounded
from atlas_bench.tasks.suites.recall import ANSWER_TOKENS, CONTEXT_TOKENS
from atlas_bench.tasks.task import SUITE, Cell, Task, TaskSettings, summarize
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.text.settings import TextSettings

DATA = ("fixtures", "hub")
FIXTURE = " (fixture)"  # follows the name of a subtask that is scored on rows of our own
ZERO_SHOT = "0-shot"  # where other tasks have a length


@dataclass(frozen=True)
class Subtask:
    """``folder``: the one in lm-eval that defines it, None for ours. ``metrics``: lm-eval's names
    and ours."""

    folder: str | None
    metrics: Mapping[str, str]


def _own(folder: str | None, metric: str) -> Subtask:
    return Subtask(folder, {metric: "accuracy"})


# As in the papers, HellaSwag and ARC-challenge are normalised by the lengths of the answers.
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
    """The lm-eval tasks, and the data that they ask about."""

    name: str = "commonsense"
    # Tasks of lm-eval, or our own definitions for it.
    subtasks: list[str] = bounded(["wikitext", *AVERAGED], one_of=SUBTASKS)
    # fixtures: rows of our own, which are not a result; hub: the benchmark itself.
    data: str = bounded("fixtures", one_of=DATA)
    limit: int | None = bounded(None, at_least=1)  # documents of each subtask; null for all
    # Tokens of the recall tasks that are cut around their answer.
    context_tokens: int = bounded(CONTEXT_TOKENS, at_least=ANSWER_TOKENS + 1)
    max_length: int | None = bounded(None, at_least=2)  # tokens a model may see; null: all

    kind = SUITE

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> SuiteTask:
        return SuiteTask(self, text, seed=seed, question_every=question_every)

    def summary(self) -> str:
        return summarize(self.name, self.subtasks)


class SuiteTask(Task):
    """Tasks that lm-eval asks and judges; see evaluation/lm_eval/suites.py."""

    metrics = (PERPLEXITY, ACCURACY)

    def __init__(
        self, settings: SuiteSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        super().__init__(settings, text, seed=seed, question_every=question_every)
        self.tokenizer = shared_tokenizer(text.tokenizer, text.vocab_size)
        self.vocab_size = self.tokenizer.vocab_size
        self.versions: dict[str, str] = {}  # lm-eval's definitions, once they are loaded

    def cells(self) -> list[Cell]:
        """Every subtask once."""
        return [self.cell(subtask) for subtask in self.settings.subtasks]

    def cell(self, subtask: str) -> Cell:
        """The cell of a subtask or of the average. The name of a score on fixtures says so."""
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
