"""A run's scores: samples of every subtask and length, answered, judged and written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlas_bench.config import ConfigError
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.streaming import DoesNotFit, Prompt, generate
from atlas_bench.interrupts import Interrupted
from atlas_bench.report.records import Score, wilson_interval
from atlas_bench.tasks.babilong import (
    NoisePool,
    Sample,
    evaluation_samples,
    exact_match,
    parse_length,
    published_metric,
)

if TYPE_CHECKING:
    from atlas_bench.run import Run


def evaluate(run: Run, noise: NoisePool | None, notes: list[str]) -> list[Score]:
    """Scores of every subtask and length; a length that does not fit is skipped with a note.

    ``noise`` is what generated samples are mixed with.
    """
    task = run.settings.task
    run.model.eval()
    scores: list[Score] = []
    # Draw one sample of everything first: a length that no story fits must not cost an evaluation.
    for subtask in task.subtasks:
        for length in task.lengths:
            next(_samples(run, noise, subtask, length, 1))
    with progress_bars(run.console) as bars:
        for subtask in task.subtasks:
            for length in task.lengths:
                bar = bars.add_task(f"{subtask} {length}", total=task.samples, note="")
                try:
                    found = _evaluate_length(
                        run, noise, subtask, length, partial(bars.advance, bar)
                    )
                except DoesNotFit as error:
                    notes.append(f"{subtask} {length}: {error}")
                    run.console.print(f"[yellow]{subtask} {length}: {error}[/yellow]")
                    continue
                scores += found
                if run.stop():
                    raise Interrupted
    return scores


def _samples(
    run: Run, noise: NoisePool | None, subtask: str, length: str, count: int
) -> Iterator[Sample]:
    task = run.settings.task
    try:
        yield from evaluation_samples(
            subtask,
            length,
            count,
            task.seed,
            noise=noise,
            tokenizer=run.tokenizer,
            convention=task.length_convention,
            source=task.source,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _evaluate_length(
    run: Run,
    noise: NoisePool | None,
    subtask: str,
    length: str,
    on_prompt: Callable[[], None],
) -> list[Score]:
    """Both metrics on the same answers, with what reading the contexts cost."""
    task, hardware, tokenizer = run.settings.task, run.settings.hardware, run.tokenizer
    asked: list[tuple[str, str, int]] = []  # question, answer, context tokens; never the context

    def prompts() -> Iterator[Prompt]:
        for index, sample in enumerate(_samples(run, noise, subtask, length, task.samples)):
            asked.append((sample.question, sample.answer, sample.length_tokens))
            question = np.append(sample.question_ids, tokenizer.answer_id)
            yield Prompt(sample.context_ids, question, index)

    found = generate(
        run.model,
        prompts(),
        max_new=task.max_new_tokens,
        end_id=tokenizer.end_id,
        piece=hardware.piece_tokens,
        batch_tokens=hardware.batch_tokens,
        on_prompt=on_prompt,
        should_stop=run.stop,
    )
    outputs = [tokenizer.decode(tokens).strip() for tokens in found.tokens]
    _append_predictions(run.folder, subtask, length, asked, outputs)
    pairs = list(zip(asked, outputs, strict=True))
    correct = {
        "exact_match": sum(exact_match(answer, output) for (_, answer, _), output in pairs),
        "published_metric": sum(
            published_metric(subtask, target=answer, output=output, question=question)
            for (question, answer, _), output in pairs
        ),
    }
    nominal = parse_length(length, task.length_convention)
    scores = []
    for metric, count in correct.items():
        low, high = wilson_interval(count, len(pairs))
        scores.append(
            Score(
                subtask=subtask,
                length_tokens=nominal,
                length_name=length,
                metric=metric,
                value=count / len(pairs),
                samples=len(pairs),
                ci_low=low,
                ci_high=high,
                tokens_per_second=round(found.tokens_per_second, 1),
                peak_memory_bytes=found.peak_memory_bytes,
                measured_tokens_mean=round(sum(tokens for *_, tokens in asked) / len(asked), 1),
            )
        )
    return scores


def _append_predictions(
    folder: Path,
    subtask: str,
    length: str,
    asked: list[tuple[str, str, int]],
    outputs: list[str],
) -> None:
    """Every answer as given, so that any metric can be computed again from the run's folder."""
    with (folder / "predictions.jsonl").open("a", encoding="utf-8") as file:
        for (question, target, tokens), output in zip(asked, outputs, strict=True):
            row = {
                "subtask": subtask,
                "length": length,
                "context_tokens": tokens,
                "question": question,
                "target": target,
                "output": output,
            }
            file.write(json.dumps(row) + "\n")
