"""Evaluation samples of BABILong: bAbI facts scattered through long background text.

Protocol: Kuratov et al. 2024, BABILong, and its repository (babilong_utils.py, create_tasks.py).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from atlas_bench.seeding import seeded
from atlas_bench.tasks.babi import (
    SUBTASKS,
    Query,
    Question,
    Statement,
    generate_story,
)
from atlas_bench.tasks.babilong.hub import hub_samples
from atlas_bench.tasks.babilong.sample import Sample
from atlas_bench.tasks.lengths import context_tokens, parse_length
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer

SOURCES = ("generated", "hub")
TOKENS_PER_FACT = 8  # the published sets drop a story of more than context / 8 rows
_ATTEMPTS = 500  # stories drawn before a length is called too short for the subtask


def build_sample(
    subtask: str,
    question: Question,
    noise: NoisePool,
    tokenizer: Tokenizer,
    context_length: int,
    rng: random.Random,
) -> Sample:
    """Scatter the question's facts through ``context_length`` tokens of context, facts included.

    The facts, in order, go to boundaries between noise sentences, which are drawn uniformly with
    replacement. A length of 0 means only the facts. Facts and question get a leading space and lose
    trailing ones (published questions may end in "? ").

    Raises ValueError when the facts alone are longer than the context.
    """
    facts = [tokenizer.encode_phrase(" " + fact.strip()) for fact in question.facts]
    used = sum(map(len, facts))
    if context_length and used > context_length:
        raise ValueError(f"the facts take {used} tokens, more than the context's {context_length}")
    background = noise.take(context_length - used, rng)
    slots = sorted(rng.randrange(background.sentence_count + 1) for _ in facts)
    pieces: list[np.ndarray] = []
    positions = np.zeros(len(facts), dtype=np.int64)
    read, inserted = 0, 0
    for number, (fact, slot) in enumerate(zip(facts, slots, strict=True)):
        bound = int(background.bounds[slot])
        pieces += [*background.pieces(read, bound), fact]
        positions[number] = bound + inserted
        inserted += len(fact)
        read = bound
    pieces += background.pieces(read, int(background.bounds[-1]))
    return Sample(
        subtask=subtask,
        context_ids=np.concatenate(pieces),  # the only copy
        question=question.question,
        question_ids=tokenizer.encode_phrase(" " + question.question.strip()),
        answer=question.answer,
        answer_ids=tokenizer.encode_phrase(" " + question.answer),
        facts=question.facts,
        fact_token_positions=positions,
    )


def evaluation_samples(
    subtask: str,
    length: str | int,
    count: int,
    seed: int,
    *,
    noise: NoisePool | None,
    tokenizer: Tokenizer,
    convention: str = "public",
    source: str = "generated",
    questions: Sequence[Question] | None = None,
    first: int = 0,
) -> Iterator[Sample]:
    """Samples ``first`` to ``first + count - 1`` of a subtask at a nominal length such as "16k".

    ``generated``: sample i depends on (seed, subtask, nominal tokens, i) and on the noise, which
    comes from the held-out split. Its question is generated or, if ``questions`` are given, the
    i-th of those whose story fits; there are at most as many samples as such questions. ``hub``:
    the published samples in their order, which may be fewer than ``count``; ``noise``, ``seed`` and
    ``questions`` are not used.

    Raises ValueError naming ``task.subtasks``, ``task.lengths`` or ``task.source``; SourceError
    (a ValueError) when a published set is unavailable.
    """
    if subtask not in SUBTASKS:
        raise ValueError(
            f"task.subtasks: {subtask!r} is unknown; choose from {', '.join(SUBTASKS)}"
        )
    if source not in SOURCES:
        raise ValueError(f"task.source: {source!r} is unknown; choose from {', '.join(SOURCES)}")
    if source == "hub":
        return hub_samples(subtask, str(length), count, tokenizer=tokenizer, first=first)
    if noise is None:
        raise ValueError("task.source: generated samples need a noise pool")
    budget = context_tokens(length, convention)
    nominal = parse_length(length, convention)
    if questions is not None:
        fitting = _fitting_questions(questions, subtask, budget, tokenizer)[first : first + count]
    else:
        fitting = [None] * count
    return (
        _sample(subtask, question, budget, seeded(seed, subtask, nominal, i), noise, tokenizer)
        for i, question in enumerate(fitting, first)
    )


def _sample(
    subtask: str,
    question: Question | None,
    budget: int,
    rng: random.Random,
    noise: NoisePool,
    tokenizer: Tokenizer,
) -> Sample:
    """A sample of ``question``, or of a generated question."""
    if question is None:
        question = _fitting_question(subtask, budget, tokenizer, rng)
    return build_sample(subtask, question, noise, tokenizer, budget, rng)


def _fitting_question(
    subtask: str, budget: int, tokenizer: Tokenizer, rng: random.Random
) -> Question:
    """A random question whose facts fit; as in the published sets, long stories are redrawn."""
    needed = []
    for _ in range(_ATTEMPTS):
        question = _random_question(subtask, rng)
        if budget == 0:
            return question
        needed.append(_needed(question, tokenizer))
        if needed[-1] <= budget:
            return question
    raise _too_short(subtask, budget, needed)


def _fitting_questions(
    questions: Sequence[Question], subtask: str, budget: int, tokenizer: Tokenizer
) -> list[Question]:
    """The questions whose facts fit; all of them at 0k, where the context is only the facts."""
    needed = [_needed(question, tokenizer) for question in questions]
    pairs = zip(questions, needed, strict=True)
    fitting = [question for question, tokens in pairs if tokens <= budget or budget == 0]
    if not fitting:
        raise _too_short(subtask, budget, needed)
    return fitting


def _needed(question: Question, tokenizer: Tokenizer) -> int:
    """Tokens of the shortest context for the question's story."""
    used = sum(len(tokenizer.encode_phrase(" " + fact.strip())) for fact in question.facts)
    # the question's own row counts (babilong_utils.py: max_n_facts)
    return max(used, (len(question.facts) + 1) * TOKENS_PER_FACT)


def _too_short(subtask: str, budget: int, needed: Sequence[int]) -> ValueError:
    return ValueError(
        f"task.lengths: a context of {budget} tokens is too short for a story of {subtask}; "
        f"the shortest of {len(needed)} needs {min(needed)} tokens"
    )


def _random_question(subtask: str, rng: random.Random) -> Question:
    """A random question of a new story, with the statements before it."""
    lines = generate_story(subtask, rng).lines
    asked = rng.choice([i for i, line in enumerate(lines) if isinstance(line, Query)])
    facts = tuple(line.text for line in lines[:asked] if isinstance(line, Statement))
    query = lines[asked]
    return Question(facts, query.text, query.answer, query.supports)
