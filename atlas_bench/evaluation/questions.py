"""Questions answered in words after contexts of any length, judged by the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas_bench.artifacts.folder import append_lines
from atlas_bench.artifacts.metrics import wilson_interval
from atlas_bench.artifacts.schema import DepthScore, Score
from atlas_bench.evaluation.streaming import Generated, Prompt, generate
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.tasks.task import Cell, Question

if TYPE_CHECKING:
    from atlas_bench.evaluation.context import Run

DEPTHS = 10  # equal parts of a context in which answers lie
_NO_TOKENS = np.zeros(0, dtype=np.int32)


def score_questions(
    run: Run, cell: Cell, on_prompt: Callable[[], None]
) -> tuple[list[Score], list[DepthScore]]:
    """All metrics on the same answers, with what reading the contexts cost; and by depth."""
    task, hardware = run.task, run.settings.hardware
    asked: list[Question] = []  # without their contexts
    lengths: list[int] = []

    def prompts() -> Iterator[Prompt]:
        for index, each in enumerate(task.questions(cell, task.samples)):
            asked.append(replace(each, context_ids=_NO_TOKENS))
            lengths.append(len(each.context_ids))
            yield Prompt(each.context_ids, each.question_ids, index)

    if isinstance(run.model, LanguageModel):
        ours = {"end_id": task.tokenizer.end_id, "prefill_chunk": hardware.prefill_chunk}
        answer = partial(generate, run.model, **ours)
    else:
        answer = run.model.generate
    found = answer(
        prompts(),
        max_new=task.max_new_tokens,
        batch_tokens=hardware.batch_tokens,
        on_prompt=on_prompt,
        should_stop=run.stop,
    )
    outputs = [task.tokenizer.decode(tokens).strip() for tokens in found.tokens]
    judged = [task.judge(cell, each, output) for each, output in zip(asked, outputs, strict=True)]
    rows = _predictions(cell, asked, lengths, outputs, judged)
    append_lines(run.folder.predictions, rows)
    values = {metric: [each[metric] for each in judged] for metric in judged[0]}
    scores = [
        _score(cell, metric, of_metric, found, lengths) for metric, of_metric in values.items()
    ]
    depths = [
        score
        for metric, of_metric in values.items()
        for score in _by_depth(cell, metric, of_metric, [each.depth for each in asked])
    ]
    return scores, depths


def _score(
    cell: Cell, metric: str, values: Sequence[float], found: Generated, lengths: Sequence[int]
) -> Score:
    low, high = wilson_interval(sum(values), len(values))
    return Score(
        subtask=cell.subtask,
        length_tokens=cell.tokens,
        length_name=cell.length,
        metric=metric,
        value=sum(values) / len(values),
        samples=len(values),
        ci_low=low,
        ci_high=high,
        tokens_per_second=round(found.tokens_per_second, 1),
        peak_memory_bytes=found.peak_memory_bytes,
        measured_tokens_mean=round(sum(lengths) / len(lengths), 1),
    )


def _by_depth(
    cell: Cell, metric: str, values: Sequence[float], depths: Sequence[float | None]
) -> list[DepthScore]:
    """The mean of every tenth of the context in which an answer lay."""
    parts: dict[int, list[float]] = {}
    for value, depth in zip(values, depths, strict=True):
        if depth is not None:
            parts.setdefault(min(int(depth * DEPTHS), DEPTHS - 1), []).append(value)
    return [
        DepthScore(
            subtask=cell.subtask,
            length_tokens=cell.tokens,
            length_name=cell.length,
            metric=metric,
            depth_low=part / DEPTHS,
            depth_high=(part + 1) / DEPTHS,
            value=sum(inside) / len(inside),
            samples=len(inside),
        )
        for part, inside in sorted(parts.items())
    ]


def _predictions(
    cell: Cell,
    asked: Sequence[Question],
    lengths: Sequence[int],
    outputs: Sequence[str],
    judged: Sequence[dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """Every answer as given, so that any metric can be computed again from the run's folder."""
    for question, tokens, output, metrics in zip(asked, lengths, outputs, judged, strict=True):
        yield {
            "subtask": cell.subtask,
            "length": cell.length,
            "context_tokens": tokens,
            "depth": question.depth,
            "question": question.text,
            "references": question.references,
            "output": output,
            **metrics,
        }
