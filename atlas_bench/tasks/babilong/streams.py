"""BABILong training streams: one long world in noise, with questions throughout.

A published sample has one question after a whole context, so one answer token in thousands. A
stream has many, so every forward pass trains on many distances between fact and question.
Evaluation never uses streams: see ``babilong.evaluation_samples``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atlas_bench.seeding import seeded
from atlas_bench.tasks.babi import ENDLESS, LABELS, SUBTASKS, Query, Statement, generate_story
from atlas_bench.tasks.babilong.askers import ASKERS, QuestionAnswer
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer

MAX_QUESTION_SHARE = 0.5  # share of questions in what is not noise: they need facts
_ATTEMPTS = 20  # stories drawn before a stream is called too short for the task


@dataclass(frozen=True)
class Stream:
    """``tokens`` int32 (length + 1,): inputs are ``tokens[:-1]``, targets ``tokens[1:]``.

    Both masks are bool (length,), over the targets: ``answer_mask`` is True where the target
    belongs to an answer or is the end token after it, ``noise_mask`` where it is noise.
    """

    tokens: np.ndarray
    answer_mask: np.ndarray
    noise_mask: np.ndarray


@dataclass(frozen=True)
class _Item:
    """A statement or a question with its answer; ``answer_tokens`` counts the end token too."""

    ids: np.ndarray
    answer_tokens: int = 0


class StreamGenerator:
    """Stream number i of a seed does not depend on what was drawn before it.

    ``subtasks``, ``noise_share``: if several are given, each stream has a random one.
    ``length_tokens``: targets per stream. ``noise_share``: share of the tokens that is noise, from
    0 (facts and questions only) to 0.99 and beyond; lower where one story takes more room.
    ``question_every``: mean tokens between two questions. ``noise_share`` has priority over it,
    questions never take more than half of what is not noise, and every stream and every story has
    at least one.

    Raises ValueError naming the argument for a value outside its range, and at the first stream
    when ``length_tokens`` is too short for one question with its facts.
    """

    def __init__(
        self,
        subtasks: str | Sequence[str],
        noise: NoisePool,
        tokenizer: Tokenizer,
        *,
        length_tokens: int,
        noise_share: float | Sequence[float] = 0.9,
        question_every: int = 128,
        seed: int = 0,
    ) -> None:
        self.subtasks = (subtasks,) if isinstance(subtasks, str) else tuple(subtasks)
        unknown = [name for name in self.subtasks if name not in SUBTASKS]
        if unknown or not self.subtasks:
            raise ValueError(
                f"subtasks: {unknown or 'none given'}; choose from {', '.join(SUBTASKS)}"
            )
        if length_tokens < 1:
            raise ValueError(f"length_tokens: {length_tokens} must be at least 1")
        shares = (noise_share,) if isinstance(noise_share, int | float) else tuple(noise_share)
        if not shares or not all(0 <= share < 1 for share in shares):
            raise ValueError(f"noise_share: {noise_share} must be at least 0 and below 1")
        if question_every < 1:
            raise ValueError(f"question_every: {question_every} must be at least 1 token")
        self.noise = noise
        self.tokenizer = tokenizer
        self.length_tokens = length_tokens
        self.noise_shares = shares
        self.question_every = question_every
        self.seed = seed
        self._marks = (
            np.array([tokenizer.answer_id], dtype=np.int32),
            np.array([tokenizer.end_id], dtype=np.int32),
        )
        self._questions: dict[QuestionAnswer, _Item] = {}
        self._rhythm = {name: self._measure(name) for name in self.subtasks if name in ENDLESS}

    def __iter__(self) -> Iterator[Stream]:
        """Streams 0, 1, 2, ..., endless."""
        index = 0
        while True:
            yield self.stream(index)
            index += 1

    def batch(self, first: int, count: int) -> Stream:
        """Streams ``first`` to ``first + count - 1`` stacked: tokens (count, length + 1)."""
        streams = [self.stream(index) for index in range(first, first + count)]
        return Stream(
            np.stack([stream.tokens for stream in streams]),
            np.stack([stream.answer_mask for stream in streams]),
            np.stack([stream.noise_mask for stream in streams]),
        )

    def stream(self, index: int) -> Stream:
        """Stream number ``index``."""
        rng = seeded("stream", self.seed, index)
        subtask = rng.choice(self.subtasks)
        noise_share = rng.choice(self.noise_shares)
        total = self.length_tokens + 1
        budget = (1 - noise_share) * total
        shortest = math.inf
        for _ in range(_ATTEMPTS):
            items, spare = self._timeline(subtask, budget, rng)
            used = sum(len(item.ids) for item in items)
            if noise_share == 0 and used < total:
                # Only the world may fill the rest; what does not fit is cut off.
                items += spare
                budget *= 1.2
                if used + sum(len(item.ids) for item in spare) < total:
                    continue
            needed = _end_of_first_question(items)
            if needed <= total:
                return self._mix(items, max(0, total - used) if noise_share else 0, rng)
            shortest = min(shortest, needed)
        seen = f"the shortest took {shortest} tokens" if shortest < math.inf else "none was found"
        raise ValueError(
            f"length_tokens: {self.length_tokens} is too short for a story of {subtask} with one "
            f"question; {seen}"
        )

    # --- statements and questions -------------------------------------------------------------

    def _timeline(
        self, subtask: str, budget: float, rng: random.Random
    ) -> tuple[list[_Item], list[_Item]]:
        """Statements and questions in order, about ``budget`` tokens and at least one question;
        and the statements after them."""
        if subtask not in ENDLESS:  # worlds that end follow one another
            return self._stories(subtask, budget, rng), []
        desired = self.length_tokens / self.question_every
        facts, cost = self._rhythm[subtask]
        most = MAX_QUESTION_SHARE * budget / cost
        if subtask not in ASKERS:
            most = min(most, budget / (facts + cost))  # not more than the story itself has
        questions = max(1, round(min(desired, most)))
        fact_budget = max(1.0, budget - questions * cost)
        lines = self._world(subtask, fact_budget, rng)
        if subtask in ASKERS:
            return self._ask_anything(subtask, lines, fact_budget, questions, rng)
        return self._ask_as_told(lines, fact_budget, questions, rng)

    def _measure(self, subtask: str) -> tuple[float, float]:
        """Mean tokens of facts between two questions, and of a question with its answer."""
        lines = generate_story(subtask, seeded("rhythm", subtask), questions=200).lines
        facts = sum(len(self._item(line).ids) for line in lines if isinstance(line, Statement))
        asked = [len(self._item(line).ids) for line in lines if isinstance(line, Query)]
        return facts / len(asked), sum(asked) / len(asked)

    def _world(
        self, subtask: str, fact_budget: float, rng: random.Random
    ) -> list[Statement | Query]:
        """A world that is a little longer than the budget."""
        questions = math.ceil(1.1 * fact_budget / self._rhythm[subtask][0]) + 3
        while True:
            lines = list(generate_story(subtask, rng, questions=questions).lines)
            facts = sum(len(self._item(line).ids) for line in lines if isinstance(line, Statement))
            if facts >= fact_budget:
                return lines
            questions *= 2

    def _ask_anything(
        self,
        subtask: str,
        lines: Sequence[Statement | Query],
        fact_budget: float,
        questions: int,
        rng: random.Random,
    ) -> tuple[list[_Item], list[_Item]]:
        """Questions at random places about anything known there; the last item is a question."""
        statements = [line for line in lines if isinstance(line, Statement)]
        count = self._prefix(statements, fact_budget)
        due = [0] * (len(statements) + 1)
        due[count] = 1 + min(3, questions // 4)  # some at the end, as in evaluation
        for _ in range(questions - due[count]):
            due[rng.randint(1, count)] += 1
        asker = ASKERS[subtask](LABELS["qa1"])
        items: list[_Item] = []
        asked: dict[str, str] = {}
        waiting = 0
        for number, statement in enumerate(statements, 1):
            items.append(self._item(statement))
            asker.read(statement.text)
            waiting += due[number]
            while waiting:
                pair = _fresh(asker.candidates(rng), asked, rng)
                if pair is None:
                    break
                items.append(self._question(*pair))
                waiting -= 1
            if number >= count and asked:
                break
        return items, [self._item(statement) for statement in statements[number:]]

    def _ask_as_told(
        self,
        lines: Sequence[Statement | Query],
        fact_budget: float,
        questions: int,
        rng: random.Random,
    ) -> tuple[list[_Item], list[_Item]]:
        """As many of the world's own questions as are needed."""
        used, end = 0.0, len(lines)
        first_query = next(i for i, line in enumerate(lines) if isinstance(line, Query))
        for number, line in enumerate(lines):
            if isinstance(line, Statement):
                used += len(self._item(line).ids)
                if used > fact_budget and number > first_query:
                    end = number
                    break
        asked = [i for i, line in enumerate(lines[:end]) if isinstance(line, Query)]
        kept = {asked[-1], *rng.sample(asked[:-1], min(questions, len(asked)) - 1)}
        told = [
            self._item(line)
            for i, line in enumerate(lines[:end])
            if isinstance(line, Statement) or i in kept
        ]
        return told, [self._item(line) for line in lines[end:] if isinstance(line, Statement)]

    def _stories(self, subtask: str, budget: float, rng: random.Random) -> list[_Item]:
        """Short stories one after another, each with at least one of its questions."""
        items: list[_Item] = []
        used = 0
        # tokens of story for each question
        stretch = max(1.0, budget / self.length_tokens * self.question_every)
        while not items or used < budget:
            lines = generate_story(subtask, rng).lines
            asked = [i for i, line in enumerate(lines) if isinstance(line, Query)]
            tokens = sum(len(self._item(line).ids) for line in lines)
            count = max(1, min(len(asked), round(tokens / stretch)))
            kept = set(rng.sample(asked, count))
            story = [
                self._item(line)
                for i, line in enumerate(lines[: max(kept) + 1])
                if isinstance(line, Statement) or i in kept
            ]
            items.extend(story)
            used += sum(len(item.ids) for item in story)
        return items

    def _prefix(self, statements: Sequence[Statement], fact_budget: float) -> int:
        """How many statements fit the budget; at least one."""
        used = 0.0
        for number, statement in enumerate(statements):
            used += len(self._item(statement).ids)
            if used > fact_budget:
                return max(1, number)
        return len(statements)

    def _item(self, line: Statement | Query) -> _Item:
        if isinstance(line, Query):
            return self._question(line.text, line.answer)
        return _Item(self.tokenizer.encode_phrase(" " + line.text.strip()))

    def _question(self, question: str, answer: str) -> _Item:
        item = self._questions.get((question, answer))
        if item is None:
            encode = self.tokenizer.encode_phrase
            answer_ids = encode(" " + answer)
            answer_mark, end_mark = self._marks
            parts = [encode(" " + question.strip()), answer_mark, answer_ids, end_mark]
            item = _Item(np.concatenate(parts), len(answer_ids) + 1)
            self._questions[question, answer] = item
        return item

    # --- noise ---------------------------------------------------------------

    def _mix(self, items: list[_Item], noise_tokens: int, rng: random.Random) -> Stream:
        """Noise between the items at sentence boundaries, cut to the exact length."""
        total = self.length_tokens + 1
        used = sum(len(item.ids) for item in items)
        noise = self.noise.take(noise_tokens, rng)
        slots = _slots(items, noise.sentence_count, rng)
        pieces: list[np.ndarray] = []
        is_answer = np.zeros(total + used, dtype=bool)
        is_noise = np.ones(total + used, dtype=bool)
        position, read = 0, 0
        for item, slot in zip(items, slots, strict=True):
            bound = int(noise.bounds[slot])
            if bound > read:
                pieces += noise.pieces(read, bound)
                position += bound - read
                read = bound
            pieces.append(item.ids)
            end = position + len(item.ids)
            is_noise[position:end] = False
            if item.answer_tokens:
                is_answer[end - item.answer_tokens : end] = True
            position = end
        pieces += noise.pieces(read, int(noise.bounds[-1]))
        tokens = np.concatenate(pieces)[:total]
        return Stream(tokens, is_answer[1:total], is_noise[1:total])


def _fresh(
    candidates: list[QuestionAnswer], asked: dict[str, str], rng: random.Random
) -> QuestionAnswer | None:
    """One candidate, if possible one whose answer the stream has not shown yet."""
    if not candidates:
        return None
    fresh = [pair for pair in candidates if asked.get(pair[0]) != pair[1]]
    question, answer = rng.choice(fresh or candidates)
    asked[question] = answer
    return question, answer


def _end_of_first_question(items: Sequence[_Item]) -> float:
    end = 0
    for item in items:
        end += len(item.ids)
        if item.answer_tokens:
            return end
    return math.inf


def _slots(items: Sequence[_Item], sentence_count: int, rng: random.Random) -> list[int]:
    """The sentence boundaries of the items, in order.

    Gaps between uniform random slots are exponential, so a stream looks like a sample. In some
    streams the gaps are raised to a power, so that facts come in bursts with long gaps between
    them. Every second question is moved further from what is before it.
    """
    power = rng.choice((1.0, 1.0, 3.0))
    gaps = []
    for item in items:
        gap = rng.expovariate(1.0) ** power
        if item.answer_tokens and rng.random() < 0.5:
            gap *= 4.0
        gaps.append(gap)
    scale = (sentence_count + 1) / (sum(gaps) + rng.expovariate(1.0) ** power)
    slots, reached = [], 0.0
    for gap in gaps:
        reached += gap
        slots.append(min(sentence_count, int(reached * scale)))
    return slots
