"""BABILong as a task: streams to train on, published or generated samples to answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.artifacts.metrics import EXACT_MATCH, Metric
from atlas_bench.config.bounds import bounded
from atlas_bench.tasks import babi
from atlas_bench.tasks.babilong.metrics import exact_match, published_metric
from atlas_bench.tasks.babilong.prompted import PromptedBabilong
from atlas_bench.tasks.babilong.questions import QUESTIONS as QUESTION_SOURCES
from atlas_bench.tasks.babilong.questions import questions_file, real_questions
from atlas_bench.tasks.babilong.samples import SOURCES, evaluation_samples
from atlas_bench.tasks.babilong.streams import StreamGenerator
from atlas_bench.tasks.lengths import CONVENTIONS, context_tokens, parse_length
from atlas_bench.tasks.stages import NoiseStage
from atlas_bench.tasks.task import (
    QUESTIONS,
    Batch,
    Cell,
    Question,
    QuestionTask,
    TaskSettings,
    summarize,
)
from atlas_bench.tasks.vocabulary import shared_tokenizer
from atlas_bench.text.noise import NoisePool, load_noise
from atlas_bench.text.settings import TextSettings


@dataclass
class BabilongSettings(TaskSettings):
    """The questions, the lengths of their contexts, and how answers are scored."""

    name: str = "babilong"
    subtasks: list[str] = bounded(["qa1"], one_of=babi.SUBTASKS)
    # Context lengths: 0k is the facts alone, else any number of k or M up to 10M.
    lengths: list[str] = bounded(["0k", "1k", "2k", "4k", "8k", "16k"])
    # Tokens of a context. public: nominal - 300; finetuning: n x 512 - 20.
    length_convention: str = bounded("public", one_of=CONVENTIONS)
    samples: int = bounded(100, at_least=1)  # samples of each subtask and length
    # Where samples come from; hub: the published sets of RMT-team.
    source: str = bounded("generated", one_of=SOURCES)
    # Stories and questions; real: in file order, as in the published sets.
    questions: str = bounded("generated", one_of=QUESTION_SOURCES)
    questions_folder: str | None = None  # a folder of bAbI v1.2 files, for real questions
    max_new_tokens: int = bounded(10, at_least=1)  # maximum tokens of an answer

    kind = QUESTIONS
    stage = NoiseStage
    # Facts alone until the model answers them: first with coarse chunks, in which nothing that is
    # written is overwritten, then with the model's own. Then noise with its penalty, then length.
    default_stages = (
        NoiseStage(length=64, coarse=True, penalty_scale=0.0, longest=0.35),
        NoiseStage(length=128, penalty_scale=0.0),
        NoiseStage(length=256, noise=0.5),
        NoiseStage(length=512, noise=0.8, penalty_scale=3.0),
        NoiseStage(length=1024, noise=0.9, penalty_scale=10.0),
    )

    def check(self, text: TextSettings) -> None:
        """Lengths shorter than a story of the subtask are found when the samples are drawn."""
        super().check(text)
        for length in self.lengths:
            context_tokens(length, self.length_convention)
        real = self.questions == "real"
        if real and self.source == "hub":
            raise ValueError(
                "task.questions=real builds samples, but task.source=hub has its own; use one of "
                "them"
            )
        if real and not self.questions_folder:
            raise ValueError(
                "task.questions=real needs task.questions_folder=PATH, a folder of bAbI v1.2 files"
            )
        if self.questions_folder and not real:
            raise ValueError("task.questions_folder is only for task.questions=real")
        if real:
            for subtask in self.subtasks:
                questions_file(self.questions_folder, subtask)

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> BabilongTask:
        return BabilongTask(self, text, seed=seed, question_every=question_every)

    def summary(self) -> str:
        return summarize(self.name, self.subtasks, self.lengths)

    def for_validation(self, samples: int) -> BabilongSettings:
        if self.source == "hub" or self.questions == "real":  # published samples
            return super().for_validation(samples)
        return self.with_other_samples(samples=samples)


class BabilongTask(QuestionTask):
    """bAbI questions about facts that are scattered in background text."""

    metrics = (EXACT_MATCH, Metric("published_metric"))

    def __init__(
        self, settings: BabilongSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        super().__init__(settings, text, seed=seed, question_every=question_every)
        self.tokenizer = shared_tokenizer(text.tokenizer, text.vocab_size)
        self.vocab_size = self.tokenizer.vocab_size
        self.max_new_tokens, self.samples = settings.max_new_tokens, settings.samples
        self._generators: dict[tuple[int, float], StreamGenerator] = {}

    def for_pretrained(self, prompt_parts: dict[str, bool]) -> PromptedBabilong:
        return PromptedBabilong(self, prompt_parts)

    def batch(self, stage: NoiseStage, first: int, count: int) -> Batch:
        """Streams with questions all along the way."""
        key = stage.length, stage.noise
        if key not in self._generators:
            self._generators[key] = StreamGenerator(
                self.settings.subtasks,
                self._train_noise,
                self.tokenizer,
                length_tokens=stage.length,
                noise_share=stage.noise,
                question_every=self.question_every,
                seed=self.seed,
            )
        try:
            streams = self._generators[key].batch(first, count)
        except ValueError as error:
            raise ValueError(f"training.curriculum.stages: {error}") from error
        return Batch(streams.tokens[:, :-1], streams.tokens[:, 1:], streams.answer_mask)

    def cells(self) -> list[Cell]:
        """Every subtask at every length."""
        convention = self.settings.length_convention
        return [
            Cell(subtask, length, parse_length(length, convention))
            for subtask in self.settings.subtasks
            for length in self.settings.lengths
        ]

    def questions(self, cell: Cell, count: int) -> Iterator[Question]:
        """The questions of the cell's samples, each with its context."""
        settings = self.settings
        samples = evaluation_samples(
            cell.subtask,
            cell.length,
            count,
            settings.seed,
            noise=self._test_noise if settings.source == "generated" else None,
            tokenizer=self.tokenizer,
            convention=settings.length_convention,
            source=settings.source,
            questions=self._real_questions(cell.subtask),
        )
        for sample in samples:
            yield Question(
                sample.context_ids,
                np.append(sample.question_ids, self.tokenizer.answer_id).astype(np.int32),
                sample.question,
                (sample.answer,),
            )

    def judge(self, cell: Cell, question: Question, output: str) -> dict[str, float]:
        """The strict metric and the published one."""
        (answer,) = question.references
        published = published_metric(
            cell.subtask, target=answer, output=output, question=question.text
        )
        return {
            "exact_match": float(exact_match(answer, output)),
            "published_metric": float(published),
        }

    def protocol(self) -> dict[str, Any]:
        """Conventions, sources and the chance level."""
        settings = self.settings
        return {
            "length_convention": settings.length_convention,
            "source": settings.source,
            "questions": self._questions_note(),
            "noise": self.text.source,
            "samples": settings.samples,
            "trains_on": "generated streams",
            "chance": {subtask: 1 / len(babi.LABELS[subtask]) for subtask in settings.subtasks},
        }

    def _real_questions(self, subtask: str) -> tuple[babi.Question, ...] | None:
        if self.settings.questions == "generated":
            return None
        return real_questions(self.settings.questions_folder, subtask)

    def _questions_note(self) -> str:
        settings = self.settings
        if settings.source == "hub" or settings.questions == "generated":
            return settings.source
        files = [questions_file(settings.questions_folder, name).name for name in settings.subtasks]
        return f"real: {', '.join(files)}"

    @cached_property
    def _train_noise(self) -> NoisePool:
        return self._noise("train")

    @cached_property
    def _test_noise(self) -> NoisePool:
        return self._noise("test")

    def _noise(self, split: str) -> NoisePool:
        return load_noise(self.text, split, self.tokenizer, without_names=babi.PERSON_NAMES)
