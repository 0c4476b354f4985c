"""RULER as a task: its 13 subtasks at any length, on which texts, for which kind of model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.artifacts.metrics import Metric
from atlas_bench.config.bounds import bounded
from atlas_bench.tasks.lengths import parse_length
from atlas_bench.tasks.ruler import counting, documents, needles, sources, tracing
from atlas_bench.tasks.ruler.documents import InventedShips, Problems, qa_sample
from atlas_bench.tasks.ruler.metric import string_match_all, string_match_part
from atlas_bench.tasks.ruler.needles import NIAH, niah_sample
from atlas_bench.tasks.ruler.streams import NeedleStreams
from atlas_bench.tasks.ruler.words import ADJECTIVES, HELD_OUT_EVERY, KEYS, NOUNS
from atlas_bench.tasks.ruler.writing import Frame
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
from atlas_bench.text.noise import NoisePool, load_noise
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer, make_tokenizer

QA = ("ruler_qa_1", "ruler_qa_2")
NEW_TOKENS = {
    **dict.fromkeys(NIAH, needles.NEW_TOKENS),
    "ruler_vt": tracing.NEW_TOKENS,
    "ruler_cwe": counting.CWE_NEW_TOKENS,
    "ruler_fwe": counting.FWE_NEW_TOKENS,
    **dict.fromkeys(QA, documents.NEW_TOKENS),
}
SUBTASKS = tuple(NEW_TOKENS)
# The name of a score says what the question was: our paragraphs are neither SQuAD nor HotpotQA.
QA_NAMES = {
    "generated": dict(zip(QA, ("own_qa_1", "own_qa_2"), strict=True)),
    "hub": dict(zip(QA, ("ruler_qa_squad", "ruler_qa_hotpot"), strict=True)),
}
# Names in the tables of Titans and ATLAS: pass-key, number, uuid ("W" in their columns).
PAPER_NAMES = {
    "niah_single_1": "S-NIAH-PK",
    "niah_single_2": "S-NIAH-N",
    "niah_single_3": "S-NIAH-W",
}
NAMES = ("ruler", "paper")
SOURCES = tuple(QA_NAMES)
ESSAYS = ("text", "paul_graham")
TRAINED_ON = {
    "generator": "laptop: on this task's own generator, with other keys and values",
    "text": "paper: pretrained as a language model, asked without further training",
}
SHORTEST = 512


@dataclass
class RulerSettings(TaskSettings):
    """The subtasks, their lengths and samples, and the texts that they are made of."""

    name: str = "ruler"
    subtasks: list[str] = bounded(list(SUBTASKS), one_of=SUBTASKS)
    lengths: list[str] = bounded(["1k", "2k", "4k"])  # lengths of prompts; 1k is 1024 tokens
    samples: int = bounded(50, at_least=1)  # samples of each subtask and length; 500 in the papers
    # Source of the question answering; hub: SQuAD and HotpotQA.
    source: str = bounded("generated", one_of=SOURCES)
    # Haystacks of prose; text: the run's text; paul_graham: essays from the hub.
    essays: str = bounded("text", one_of=ESSAYS)
    # Training data; text: a language model is trained elsewhere and evaluated here.
    trained_on: str = bounded("generator", one_of=TRAINED_ON)
    names: str = bounded("ruler", one_of=NAMES)  # names of the scores; paper: S-NIAH-PK, -N, -W

    kind = QUESTIONS
    stage = NoiseStage
    # First nothing but needles and questions, then ever more haystack. 128 tokens hold two numbers
    # and the questions about them. Training that began at 256 tokens took three times as many
    # tokens to learn which key has which number.
    default_stages = (
        NoiseStage(length=128, penalty_scale=0.0),
        NoiseStage(length=256, noise=0.3, penalty_scale=0.0),
        NoiseStage(length=512, noise=0.7),
        NoiseStage(length=1024, noise=0.9),
    )

    def check(self, text: TextSettings) -> None:
        """Lengths that are too short for a subtask's prompt are found when samples are drawn."""
        super().check(text)
        for length in self.lengths:
            if _tokens(length) < SHORTEST:
                raise ValueError(
                    f"task.lengths: {length} is too short; prompts have {SHORTEST} tokens or more"
                )

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> RulerTask:
        return RulerTask(self, text, seed=seed, question_every=question_every)

    def summary(self) -> str:
        return summarize(self.name, self.subtasks, self.lengths)

    def for_validation(self, samples: int) -> RulerSettings:
        if self.source == "hub":  # published questions
            return super().for_validation(samples)
        return self.with_other_samples(samples=samples)


class RulerTask(QuestionTask):
    """RULER's subtasks in haystacks of exact length."""

    metrics = (Metric("string_match_all"), Metric("string_match_part"))

    def __init__(
        self, settings: RulerSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        super().__init__(settings, text, seed=seed, question_every=question_every)
        self.tokenizer = ruler_tokenizer(text)
        self.vocab_size = self.tokenizer.vocab_size
        self.samples = settings.samples
        self.max_new_tokens = max(NEW_TOKENS[subtask] for subtask in settings.subtasks)
        self._loaded_essays: dict[str, NoisePool] = {}  # by split
        self._loaded_problems: dict[str, Problems] = {}  # by subtask

    def batch(self, stage: NoiseStage, first: int, count: int) -> Batch:
        """Streams of needles with questions throughout. Raises ValueError for
        ``task.trained_on=text``, and where no subtask has streams."""
        return self._streams.batch(stage.length, stage.noise, first, count)

    def cells(self) -> list[Cell]:
        """Every subtask at every length."""
        return [
            Cell(self._shown(subtask), length, _tokens(length))
            for subtask in self.settings.subtasks
            for length in self.settings.lengths
        ]

    def questions(self, cell: Cell, count: int) -> Iterator[Question]:
        """The cell's questions; only the evaluation seed, cell, texts and i decide number i."""
        subtask = self._subtask(cell)
        sample = self._maker(subtask, cell.tokens)
        for index in range(count):
            parts = (self.settings.seed, subtask, cell.tokens, index)
            try:
                yield sample(parts, index)
            except IndexError:  # past the last question of a published set
                return

    def judge(self, cell: Cell, question: Question, output: str) -> dict[str, float]:
        """RULER's metrics on the tokens that the subtask allows."""
        subtask = self._subtask(cell)
        if NEW_TOKENS[subtask] < self.max_new_tokens:
            output = self.tokenizer.decode(self.tokenizer.encode(output)[: NEW_TOKENS[subtask]])
        scores = {"string_match_all": string_match_all(question.references, output)}
        if subtask in QA:
            scores["string_match_part"] = string_match_part(question.references, output)
        return scores

    def protocol(self) -> dict[str, Any]:
        """Lengths, texts, what is held out, and how the model was trained."""
        settings = self.settings
        chosen = settings.subtasks
        facts: dict[str, Any] = {
            "length_convention": "1k = 1024 tokens; prompt and new tokens together",
            "samples": settings.samples,
            "new_tokens": {self._shown(subtask): NEW_TOKENS[subtask] for subtask in chosen},
            "trained_on": TRAINED_ON[settings.trained_on],
            "words": f"our own {len(ADJECTIVES)} adjectives and {len(NOUNS)} nouns",
        }
        if settings.trained_on == "generator":
            facts["held_out"] = (
                f"{len(KEYS['test'])} of {len(KEYS['test']) + len(KEYS['train'])} word keys; "
                f"numbers and uuids divisible by {HELD_OUT_EVERY}"
            )
            facts["trains_on"] = [self._shown(subtask) for subtask in chosen if subtask in NIAH]
        if any(_needs_essays(subtask) for subtask in chosen):
            own = settings.essays == "text"
            facts["essays"] = self.text.source if own else "Paul Graham's essays from the hub"
        if "ruler_cwe" in chosen:
            facts["cwe_repeats"] = {
                length: [frequencies.often, frequencies.seldom]
                for length in settings.lengths
                for frequencies in [counting.cwe_frequencies(_tokens(length), self.tokenizer)]
            }
        if set(QA) & set(chosen):
            facts["question_answering"] = {
                "generated": "our own paragraphs on invented ships, neither SQuAD nor HotpotQA",
                "hub": "SQuAD v2 and HotpotQA, development sets",
            }[settings.source]
        return facts

    # --- samples ------------------------------------------------------------------------------

    def _maker(self, subtask: str, tokens: int) -> Callable[[tuple, int], Question]:
        """The function that makes a sample of the subtask from the parts of a seed and a number."""
        frame = Frame(self.tokenizer, self._ending, self._essays(subtask, "test"))
        if subtask == "ruler_vt":
            return lambda parts, index: tracing.vt_sample(tokens, parts, frame)
        if subtask == "ruler_cwe":
            frequencies = counting.cwe_frequencies(tokens, self.tokenizer)
            return lambda parts, index: counting.cwe_sample(tokens, parts, frame, frequencies)
        if subtask == "ruler_fwe":
            return lambda parts, index: counting.fwe_sample(tokens, parts, frame)
        if subtask in QA:
            shown, problems = self._shown(subtask), self._problems(subtask)
            return lambda parts, index: qa_sample(shown, tokens, parts, frame, problems, index)
        return lambda parts, index: niah_sample(subtask, tokens, parts, frame)

    @property
    def _ending(self) -> np.ndarray:
        """The end of a prompt; a model trained on streams answers after a special token."""
        trained_here = self.settings.trained_on == "generator"
        return np.array([self.tokenizer.answer_id] if trained_here else [], dtype=np.int32)

    def _problems(self, subtask: str) -> Problems:
        if subtask not in self._loaded_problems:
            if self.settings.source == "generated":
                found = InventedShips(hops=1 + QA.index(subtask))
            else:
                found = sources.squad() if subtask == QA[0] else sources.hotpot()
            self._loaded_problems[subtask] = found
        return self._loaded_problems[subtask]

    def _essays(self, subtask: str, split: str) -> NoisePool | None:
        """Prose of a split, for a subtask with an essay haystack."""
        if not _needs_essays(subtask):
            return None
        if split not in self._loaded_essays:
            if self.settings.essays == "paul_graham" and split == "test":
                books = [sources.paul_graham_sentences()]
                pool = NoisePool.from_sentences(books, self.tokenizer, min_tokens=1)
            else:
                pool = load_noise(self.text, split, self.tokenizer, min_tokens=1)
            self._loaded_essays[split] = pool
        return self._loaded_essays[split]

    @cached_property
    def _streams(self) -> NeedleStreams:
        if self.settings.trained_on != "generator":
            raise ValueError(
                "task.trained_on=text is for mode=eval of a pretrained model; train it with "
                "task=lm, or on needles with task.trained_on=generator"
            )
        subtasks = [subtask for subtask in self.settings.subtasks if subtask in NIAH]
        if not subtasks:
            raise ValueError(
                f"task.subtasks: only {', '.join(NIAH)} can be trained on; name one of them, or "
                f"use mode=eval"
            )
        essays = [self._essays(subtask, "train") for subtask in subtasks]
        return NeedleStreams(
            subtasks,
            self.tokenizer,
            next((pool for pool in essays if pool is not None), None),
            question_every=self.question_every,
            seed=self.seed,
        )

    # --- names --------------------------------------------------------------------------------

    def _shown(self, subtask: str) -> str:
        if self.settings.names == "paper":
            return PAPER_NAMES.get(subtask, subtask)
        return QA_NAMES[self.settings.source].get(subtask, subtask)

    def _subtask(self, cell: Cell) -> str:
        return next(name for name in self.settings.subtasks if self._shown(name) == cell.subtask)


def ruler_tokenizer(text: TextSettings) -> Tokenizer:
    """``text.tokenizer``. In the embedded one every word of prompts and word lists is one token."""
    return make_tokenizer(text.tokenizer, vocab_size=text.vocab_size, wording=wording())


def wording() -> list[str]:
    """The phrases whose words become single tokens."""
    keys = [f"{ADJECTIVES[n % len(ADJECTIVES)]}-{noun}" for n, noun in enumerate(NOUNS)]
    phrases = [*keys, *NOUNS, f"a\n{needles.REPEATED}"]
    for task in NIAH.values():
        # after a line break a word has no space before it
        phrases += [f"a\n{needles.needle(task, 'a', '1')}", f"a\n{needles.question(task, ['a'])}"]
        phrases += [needles.header(task), needles.answer_prefix(task, ["a"])]
    chain = {"value": 1, "count": 1}
    phrases += ["a\nVAR a = 1 VAR", tracing.HEADER]
    phrases += [f"a\n{tracing.QUESTION.format(**chain)}", tracing.PREFIX.format(**chain)]
    phrases += [counting.CWE_HEADER, counting.CWE_QUESTION, counting.CWE_PREFIX, counting.DOTS]
    phrases += [counting.FWE_HEADER, counting.FWE_QUESTION, counting.FWE_PREFIX]
    phrases += [documents.HEADER, "a\nDocument 1: Question: a Answer: The"]
    return phrases


def _tokens(length: str) -> int:
    """RULER's 1k is 1024 tokens, as in BABILong's fine-tuning convention."""
    return parse_length(length, "finetuning")


def _needs_essays(subtask: str) -> bool:
    return subtask in NIAH and NIAH[subtask].haystack == "essay"
