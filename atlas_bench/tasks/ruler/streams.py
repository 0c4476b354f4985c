"""Training streams of needles: many needles and many questions in one sequence.

An evaluation prompt has one question after thousands of tokens. A stream hides needles among the
same lines or prose and asks repeatedly about those so far, in the same sentences. Its keys and
values never appear in evaluation (see ``words``). Only the NIAH subtasks have streams.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atlas_bench.seeding import seeded
from atlas_bench.tasks.ruler.needles import (
    NIAH,
    REPEATED,
    Needles,
    answer_prefix,
    header,
    needle,
    question,
)
from atlas_bench.tasks.ruler.words import draw
from atlas_bench.tasks.task import Batch
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer

NEEDLE_SHARE = 0.4  # least share of needles in the tokens that are not haystack
FRESH_SHARE = 0.5  # share of questions about a needle that was not asked about before

Group = tuple[str, list[str]]  # a key and its values


@dataclass(frozen=True)
class Item:
    """A piece of a stream. The last ``answer_tokens`` of a question are answer and end token."""

    ids: np.ndarray
    answer_tokens: int = 0


class _TooShort(Exception):
    """Needle and question of no subtask fit in so few tokens."""


class NeedleStreams:
    """Stream number i of a seed does not depend on what was drawn before it.

    ``subtasks``: NIAH subtasks; each stream has a random one that fits its length.
    ``essays``: prose of the training part, for subtasks with an essay haystack.
    ``question_every``: mean tokens between two questions, if the needles leave room.
    """

    def __init__(
        self,
        subtasks: Sequence[str],
        tokenizer: Tokenizer,
        essays: NoisePool | None,
        *,
        question_every: int,
        seed: int,
    ) -> None:
        self.subtasks = tuple(subtasks)
        self.tokenizer, self.essays = tokenizer, essays
        self.question_every, self.seed = question_every, seed

    def batch(self, length: int, noise: float, first: int, count: int) -> Batch:
        """Streams ``first`` to ``first + count - 1`` of ``length`` targets, of which a share
        ``noise`` is haystack. A length in which no subtask's needle and question fit is doubled:
        they take 60 to 220 tokens, and one curriculum is for all subtasks."""
        while True:
            try:
                return self._batch(length, noise, first, count)
            except _TooShort:
                length *= 2

    def _batch(self, length: int, noise: float, first: int, count: int) -> Batch:
        tokens = np.zeros((count, length + 1), dtype=np.int32)
        answers = np.zeros((count, length + 1), dtype=bool)
        for row in range(count):
            position = 0
            for item in self._stream(length + 1, noise, first + row):
                end = position + len(item.ids)
                tokens[row, position:end] = item.ids
                answers[row, end - item.answer_tokens : end] = True
                position = end
        return Batch(tokens[:, :-1], tokens[:, 1:], answers[:, 1:])

    def _stream(self, total: int, noise: float, index: int) -> Iterator[Item]:
        """Header, needles, questions and haystack of exactly ``total`` tokens."""
        rng = seeded("needles", self.seed, total, noise, index)
        most = max(1, total // self.question_every)
        for subtask in rng.sample(self.subtasks, len(self.subtasks)):
            writer = _Writer(NIAH[subtask], self.tokenizer, rng)
            items = writer.items((1 - noise) * total, most)
            spare = total - sum(len(item.ids) for item in items)
            if spare >= 0:  # else try a subtask with fewer or shorter needles
                break
        else:
            raise _TooShort
        start = writer.header()
        if len(start.ids) <= spare:  # it does not fit in the shortest streams
            spare -= len(start.ids)
            yield start
        yield from _spread(items, writer.units(self.essays), spare, rng)


def _spread(
    items: Sequence[Item], units: Iterator[Item], spare: int, rng: random.Random
) -> Iterator[Item]:
    """Items in order with ``spare`` tokens of whole units at random places; the last unit is cut.

    Gaps between uniform random places are exponential.
    """
    gaps = [rng.expovariate(1.0) for _ in range(len(items) + 1)]
    scale = spare / sum(gaps)
    reached, written = 0.0, 0
    unit = next(units)
    for item, gap in zip(items, gaps, strict=False):
        reached += gap * scale
        while written + len(unit.ids) <= reached:
            yield unit
            written += len(unit.ids)
            unit = next(units)
        yield item
    while written < spare:
        yield Item(unit.ids[: spare - written])
        written += len(unit.ids)
        unit = next(units)


class _Writer:
    """Writes the needles and questions of one stream."""

    def __init__(self, task: Needles, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.task, self.tokenizer, self.rng = task, tokenizer, rng
        self.keys: set[str] = set()  # a key that appears twice would have two answers
        self.space = " " if task.haystack == "essay" else "\n"

    def header(self) -> Item:
        return self._item(header(self.task) + ("\n" if self.task.haystack == "essay" else ""))

    def items(self, budget: float, most: int) -> list[Item]:
        """Needles and at most ``most`` questions about earlier needles, in ``budget`` tokens; at
        least one question and its needles."""
        task, rng = self.task, self.rng
        told = [self._group() for _ in range(task.queries)]
        items = [item for group in told for item in self._needles(group)]
        needles = sum(len(item.ids) for item in items)
        items.append(self._question(told))
        used, asked, fresh = needles + len(items[-1].ids), 1, []
        while True:
            if asked >= most or needles < NEEDLE_SHARE * used:
                group = self._group()
                added = self._needles(group)
                told.append(group)
                fresh.append(group)
            elif fresh and task.queries == 1 and rng.random() < FRESH_SHARE:
                added = [self._question([fresh.pop(rng.randrange(len(fresh)))])]
            else:
                added = [self._question(rng.sample(told, task.queries))]
            size = sum(len(item.ids) for item in added)
            if used + size > budget:
                return items
            used += size
            asked += added[0].answer_tokens > 0
            needles += 0 if added[0].answer_tokens else size
            items += added

    def units(self, essays: NoisePool | None) -> Iterator[Item]:
        """The endless haystack, piece by piece."""
        if self.task.haystack == "essay":
            sentence = self.rng.randrange(len(essays))
            while True:
                begin, end = essays.offsets[sentence : sentence + 2]
                yield Item(essays.tokens[begin:end])
                sentence = (sentence + 1) % len(essays)
        while self.task.haystack == "repeat":
            yield Item(self.tokenizer.encode_phrase("\n" + REPEATED))
        while True:
            yield from self._needles(self._group())

    def _group(self) -> Group:
        key = draw(self.task.key, "train", self.rng)
        while key in self.keys:
            key = draw(self.task.key, "train", self.rng)
        self.keys.add(key)
        return key, [draw(self.task.value, "train", self.rng) for _ in range(self.task.values)]

    def _needles(self, group: Group) -> list[Item]:
        key, values = group
        return [self._item(self.space + needle(self.task, key, value)) for value in values]

    def _question(self, groups: Sequence[Group]) -> Item:
        keys = [key for key, _ in groups]
        asked = self._item(f"\n{question(self.task, keys)} {answer_prefix(self.task, keys)}")
        answer = self._item(" " + ", ".join(value for _, values in groups for value in values))
        begin, end = [self.tokenizer.answer_id], [self.tokenizer.end_id]
        ids = np.concatenate([asked.ids, begin, answer.ids, end]).astype(np.int32)
        return Item(ids, len(answer.ids) + 1)

    def _item(self, text: str) -> Item:
        return Item(np.array(self.tokenizer.encode(text), dtype=np.int32))
