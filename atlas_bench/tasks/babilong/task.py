"""BABILong as a task: streams to train on, published or generated samples to answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.naming import check_choice
from atlas_bench.tasks.babi import LABELS, SUBTASKS, Question
from atlas_bench.tasks.babilong.metrics import exact_match, published_metric
from atlas_bench.tasks.babilong.questions import QUESTIONS, questions_file, real_questions
from atlas_bench.tasks.babilong.samples import SOURCES, evaluation_samples, load_noise
from atlas_bench.tasks.babilong.streams import StreamGenerator
from atlas_bench.tasks.lengths import CONVENTIONS, context_tokens, parse_length
from atlas_bench.tasks.stages import NoiseStage
from atlas_bench.tasks.task import Asked, Batch, Cell, TaskSettings, check_counts, check_named
from atlas_bench.tasks.vocabulary import babilong_tokenizer
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.settings import TextSettings


@dataclass
class BabilongSettings(TaskSettings):
    """Which questions, at which lengths, how many, scored how."""

    name: str = "babilong"
    subtasks: list[str] = field(default_factory=lambda: ["qa1"])  # qa1 to qa20
    # Of contexts: 0k is the facts alone, any number of k or M up to 10M.
    lengths: list[str] = field(default_factory=lambda: ["0k", "1k", "2k", "4k", "8k", "16k"])
    length_convention: str = "public"  # public: nominal - 300 | finetuning: n x 512 - 20
    samples: int = 100  # a subtask and length
    source: str = "generated"  # generated | hub (the published sets of RMT-team)
    questions: str = "generated"  # generated | real (in file order, as in the published sets)
    questions_folder: str | None = None  # of the bAbI v1.2 files, for real questions
    max_new_tokens: int = 10  # of an answer

    stage = NoiseStage
    # Facts alone until they are answered: first with coarse chunks, in which nothing that is
    # written is overwritten, then with the model's own. Then noise with its penalty, then length.
    default_stages = (
        NoiseStage(length=64, coarse=True, penalty_scale=0.0, longest=0.35),
        NoiseStage(length=128, penalty_scale=0.0),
        NoiseStage(length=256, noise=0.5),
        NoiseStage(length=512, noise=0.8, penalty_scale=3.0),
        NoiseStage(length=1024, noise=0.9, penalty_scale=10.0),
    )


def check_babilong(task: BabilongSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for a task that cannot be asked.

    Lengths shorter than a story of the subtask are found when the samples are drawn.
    """
    check_choice("task.length_convention", task.length_convention, CONVENTIONS)
    check_choice("task.source", task.source, SOURCES)
    check_choice("task.questions", task.questions, QUESTIONS)
    check_named(task, "subtasks", "lengths")
    for subtask in task.subtasks:
        check_choice("task.subtasks", subtask, SUBTASKS)
    for length in task.lengths:
        context_tokens(length, task.length_convention)
    check_counts(task, "samples", "max_new_tokens")
    _check_questions(task)


def _check_questions(task: BabilongSettings) -> None:
    real = task.questions == "real"
    if real and task.source == "hub":
        raise ValueError(
            "task.questions=real builds samples, task.source=hub brings its own; leave one of them"
        )
    if real and not task.questions_folder:
        raise ValueError(
            "task.questions=real needs task.questions_folder=PATH, a folder of bAbI v1.2 files"
        )
    if task.questions_folder and not real:
        raise ValueError("task.questions_folder is read with task.questions=real alone")
    if real:
        for subtask in task.subtasks:
            questions_file(task.questions_folder, subtask)


class BabilongTask:
    """A `QuestionTask`: see `atlas_bench.tasks.task`."""

    def __init__(
        self, settings: BabilongSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        self.settings, self.text = settings, text
        self.seed, self.question_every = seed, question_every
        self.tokenizer = babilong_tokenizer(text.tokenizer, text.vocab_size)
        self.vocab_size = self.tokenizer.vocab_size
        self.max_new_tokens, self.samples = settings.max_new_tokens, settings.samples
        self._generators: dict[tuple[int, float], StreamGenerator] = {}

    def batch(self, stage: NoiseStage, first: int, count: int) -> Batch:
        """Streams with questions all along the way."""
        length, noise = stage.length, stage.noise
        if (length, noise) not in self._generators:
            self._generators[length, noise] = StreamGenerator(
                self.settings.subtasks,
                self._train_noise,
                self.tokenizer,
                length_tokens=length,
                noise_share=noise,
                question_every=self.question_every,
                seed=self.seed,
            )
        try:
            streams = self._generators[length, noise].batch(first, count)
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

    def asked(self, cell: Cell, count: int) -> Iterator[Asked]:
        """The cell's samples."""
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
            yield Asked(
                sample.context_ids,
                np.append(sample.question_ids, self.tokenizer.answer_id).astype(np.int32),
                sample.question,
                (sample.answer,),
            )

    def judge(self, cell: Cell, asked: Asked, output: str) -> dict[str, float]:
        """The strict metric and the published one."""
        (answer,) = asked.references
        published = published_metric(
            cell.subtask, target=answer, output=output, question=asked.question
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
            "chance": {subtask: 1 / len(LABELS[subtask]) for subtask in settings.subtasks},
        }

    def _real_questions(self, subtask: str) -> tuple[Question, ...] | None:
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
        text = self.text
        return load_noise(self.tokenizer, split=split, source=text.source, folder=text.folder)
