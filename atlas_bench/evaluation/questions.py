"""Evaluator of questions: answered in words after contexts of any length, judged by the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from atlas_bench.artifacts.schema import DepthScore, Scores
from atlas_bench.evaluation.cells import as_score, score_cells
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.memory_use import total_cost
from atlas_bench.evaluation.streaming import Prompt
from atlas_bench.tasks.task import Cell, MetricValue, Question, QuestionTask

DEPTHS = 10  # equal parts of a context, by which answers are grouped
_NO_TOKENS = np.zeros(0, dtype=np.int32)


def draw(task: QuestionTask) -> None:
    """One question of each cell."""
    for cell in task.cells():
        next(iter(task.questions(cell, 1)))


def evaluate(context: EvaluationContext, task: QuestionTask) -> Scores:
    """All metrics on the same answers, per cell and by the depth of the answer."""
    score = partial(_score_cell, context, task)
    return score_cells(context, task.cells(), score, total=task.samples)


def _score_cell(
    context: EvaluationContext, task: QuestionTask, cell: Cell, advance: Callable[[], None]
) -> Scores:
    questions: list[Question] = []  # without their contexts
    lengths: list[int] = []

    def prompts() -> Iterator[Prompt]:
        for index, question in enumerate(task.questions(cell, task.samples)):
            questions.append(replace(question, context_ids=_NO_TOKENS))
            lengths.append(len(question.context_ids))
            yield Prompt(question.context_ids, question.question_ids, index)

    generated = context.learner.generate(
        prompts(),
        max_new=task.max_new_tokens,
        end_id=task.tokenizer.end_id,
        on_prompt=advance,
        once=lambda name, work: context.once(f"{cell.subtask} {cell.length} {name}", work),
    )
    outputs = [task.tokenizer.decode(tokens).strip() for tokens in generated.tokens]
    judged = [
        task.judge(cell, question, output)
        for question, output in zip(questions, outputs, strict=True)
    ]
    # Every answer as given, so that any metric can be computed again from the run's folder.
    rows = (
        {
            "subtask": cell.subtask,
            "length": cell.length,
            "context_tokens": tokens,
            "depth": question.depth,
            "question": question.text,
            "references": question.references,
            "output": output,
            **metrics,
        }
        for question, tokens, output, metrics in zip(
            questions, lengths, outputs, judged, strict=True
        )
    )
    cost = total_cost(generated.tokens_read, generated.used)
    cost["measured_tokens_mean"] = round(sum(lengths) / len(lengths), 1)
    depths = [question.depth for question in questions]
    metrics = {metric.name: metric for metric in task.metrics}
    scores = Scores(predictions=list(rows))
    for name in judged[0]:
        values = [metric_values[name] for metric_values in judged]
        total = sum(values)
        mean = MetricValue(cell, metrics[name], total / len(values), len(values), total)
        scores.scores.append(as_score(mean, cost))
        scores.depths += _by_depth(cell, name, values, depths)
    return scores


def _by_depth(
    cell: Cell, metric: str, values: Sequence[float], depths: Sequence[float | None]
) -> Iterator[DepthScore]:
    """The mean over the answers in each part of the context."""
    by_part: dict[int, list[float]] = {}
    for value, depth in zip(values, depths, strict=True):
        if depth is not None:
            by_part.setdefault(min(int(depth * DEPTHS), DEPTHS - 1), []).append(value)
    for part, inside in sorted(by_part.items()):
        yield DepthScore(
            subtask=cell.subtask,
            length_tokens=cell.tokens,
            length_name=cell.length,
            metric=metric,
            depth_low=part / DEPTHS,
            depth_high=(part + 1) / DEPTHS,
            value=sum(inside) / len(inside),
            samples=len(inside),
        )
