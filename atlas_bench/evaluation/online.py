"""Evaluator of tasks that are learnt while they are measured: the losses of the learning."""

from __future__ import annotations

from atlas_bench.artifacts.schema import Scores
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.cells import as_score
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.memory_use import Meter
from atlas_bench.tasks.learnability.online import OnlineTask


def evaluate(context: EvaluationContext, task: OnlineTask) -> Scores:
    """Learn every sequence of the task, and score the losses.

    Raises TrainingError or Interrupted.
    """
    meter = Meter(context.device)
    with progress_bars(context.console) as bars:
        bar = bars.add_task("learning", total=task.settings.length, note="")

        def show(line: dict[str, float]) -> None:
            bars.update(bar, completed=line["tokens"], note=f"loss {line['loss']:.3f}")
            context.tracker.log(line, int(line["step"]))

        losses, tokens = context.learner.learn(
            task,
            folder=context.folder,
            console=context.console,
            on_token=show,
            should_stop=context.should_stop,
        )
    meter.look()
    cost = meter.cost(tokens)
    return Scores([as_score(value, cost) for value in task.judge(losses.cpu().numpy())])
