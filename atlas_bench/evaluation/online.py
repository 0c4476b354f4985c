"""Tasks that are learnt while they are measured: the learning, and its losses as scores."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from atlas_bench.artifacts.schema import Score
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.labelled import as_score
from atlas_bench.evaluation.streaming import PeakMemory
from atlas_bench.training.online import OnlineTraining, build_learner

if TYPE_CHECKING:
    from atlas_bench.evaluation.context import Run


def score_online(run: Run) -> list[Score]:
    """Learn every sequence of the task by a network of its own, and score the losses.

    Goes on where the run's folder has a checkpoint. Raises TrainingError or Interrupted.
    """
    task, settings = run.task, run.task.settings
    memory = PeakMemory(run.device)
    learner = build_learner(settings, run.settings.seed, settings.sequences)
    inputs, wanted = (torch.from_numpy(each).to(run.device) for each in task.pairs())
    with progress_bars(run.console) as bars:
        bar = bars.add_task("learning", total=settings.length, note="")

        def show(line: dict[str, float]) -> None:
            bars.update(bar, completed=line["tokens"], note=f"loss {line['loss']:.3f}")
            run.logger.log(line, int(line["step"]))

        learning = OnlineTraining(
            learner.to(run.device),
            inputs,
            wanted,
            folder=run.folder.path,
            on_line=show,
            should_stop=run.stop,
        )
        if run.settings.resume is not False and run.folder.last_checkpoint.is_file():
            learning.resume()
            run.console.print(f"resuming at token {learning.tokens}")
        started, before = time.perf_counter(), learning.tokens
        losses = learning.run().cpu().numpy()
    seconds = time.perf_counter() - started
    memory.look()
    tokens = settings.sequences * (settings.length - before)
    cost = {
        "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
        "peak_memory_bytes": memory.peak(),
    }
    return [as_score(value, cost) for value in task.judge(losses)]
