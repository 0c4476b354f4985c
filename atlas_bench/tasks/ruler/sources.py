"""Texts from the hub: Paul Graham's essays, SQuAD and HotpotQA, fetched when a task needs them.

The essays must not be redistributed, so they are fetched only on request
(``task.essays=paul_graham``). HotpotQA comes from the mirror that lm-eval pins: the set's own
repository is a loading script.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atlas_bench.naming import cause
from atlas_bench.tasks.ruler.documents import Problem
from atlas_bench.text.sentences import split_sentences

ESSAYS = "baber/paul_graham_essays"
SQUAD = "rajpurkar/squad_v2"
HOTPOT = "namlh2004/hotpotqa"
HOTPOT_FILE = "hotpot_dev_distractor_v1.json"
HOTPOT_REVISION = "7e54db4656209750ff487f6fdf8e39a66dba136b"


@dataclass(frozen=True)
class PublishedQuestion:
    """A question with the numbers of its ``gold`` documents and of the documents to take next."""

    question: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    near: tuple[int, ...] = ()


class PublishedProblems:
    """The questions of a set in its order, each among other documents of the set."""

    def __init__(self, questions: Sequence[PublishedQuestion], documents: Sequence[str]) -> None:
        self.questions, self.documents = questions, documents

    def problem(self, index: int, rng: random.Random) -> Problem:
        """Question number ``index``. As in RULER, documents of the same article are taken first."""
        published = self.questions[index]
        near = list(published.near)
        rng.shuffle(near)
        taken = {*published.gold, *near}
        rest = [number for number in range(len(self.documents)) if number not in taken]
        rng.shuffle(rest)
        return Problem(
            published.question,
            published.answers,
            tuple(self.documents[number] for number in published.gold),
            (self.documents[number] for number in near + rest),
        )


def paul_graham_sentences() -> list[str]:
    """The sentences of the essays. Raises ValueError naming ``task.essays``."""
    rows = _fetched("task.essays", ESSAYS, lambda: _load(ESSAYS, "train")["text"])
    return split_sentences(" ".join(rows))


def squad() -> PublishedProblems:
    """The answerable questions of SQuAD v2's development set. Raises ValueError."""
    rows = _fetched("task.source", SQUAD, lambda: list(_load(SQUAD, "validation")))
    documents = sorted({row["context"] for row in rows})
    numbers = {text: number for number, text in enumerate(documents)}
    articles: dict[str, dict[int, None]] = {}
    for row in rows:
        articles.setdefault(row["title"], {})[numbers[row["context"]]] = None
    questions = []
    for row in rows:
        own = numbers[row["context"]]
        near = tuple(number for number in articles[row["title"]] if number != own)
        if row["answers"]["text"]:
            answers = tuple(row["answers"]["text"])
            questions.append(PublishedQuestion(row["question"], answers, (own,), near))
    return PublishedProblems(questions, documents)


def hotpot() -> PublishedProblems:
    """The questions of HotpotQA's development set, each with its ten paragraphs."""
    rows = _fetched("task.source", HOTPOT, _download_hotpot)
    per_row = [[f"{title}\n{''.join(lines)}" for title, lines in row["context"]] for row in rows]
    documents = sorted({text for texts in per_row for text in texts})
    numbers = {text: number for number, text in enumerate(documents)}
    questions = [
        PublishedQuestion(row["question"], (row["answer"],), tuple(numbers[text] for text in texts))
        for row, texts in zip(rows, per_row, strict=True)
    ]
    return PublishedProblems(questions, documents)


def _download_hotpot() -> list[dict[str, Any]]:
    hub = importlib.import_module("huggingface_hub")
    path = hub.hf_hub_download(HOTPOT, HOTPOT_FILE, repo_type="dataset", revision=HOTPOT_REVISION)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _load(name: str, split: str) -> Any:
    return importlib.import_module("datasets").load_dataset(name, split=split)


def _fetched(key: str, name: str, fetch: Callable[[], Any]) -> Any:
    try:
        return fetch()
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise ValueError(
            f"{key}: could not read {name} from the Hugging Face hub ({cause(error)}); "
            f"check the network, or leave {key} at its default"
        ) from error
