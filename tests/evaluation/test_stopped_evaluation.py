"""Trust B11: a stop during an evaluation loses at most the piece in work."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import no_plots
from test_evaluate import MODEL, Labels, Questions, context

from atlas_bench.artifacts.records import read_record
from atlas_bench.artifacts.schema import Scores
from atlas_bench.cli.compose import compose_settings
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.evaluators import evaluate
from atlas_bench.evaluation.pieces import Pieces, weights_hash
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.runs.execute import Stopped, execute
from atlas_bench.runs.resume import folder_to_resume

COSTS = ("tokens_per_second", "peak_memory_bytes")
EVALUATION = [
    "model=deltanet", "model.match=none", "scale.width=16", "scale.heads=2",
    "mode=eval", "task.lengths=[0k,1k]", "task.samples=4", "hardware.batch_tokens=1500",
    "hardware.prefill_chunk=256", "logger=none", "hardware.threads=1",
]  # fmt: skip


def found(scores: Scores) -> list[dict[str, Any]]:
    """The scores without what they cost, which is never the same twice."""
    rows = [vars(score) for score in (*scores.scores, *scores.depths)]
    return [{k: v for k, v in row.items() if k not in COSTS} for row in rows]


@pytest.mark.parametrize("task", [Questions, Labels])
def test_b11_a_stop_at_any_forward_pass_loses_one_piece(task: type, tmp_path: Path) -> None:
    passes = [0]

    def begin(name: str) -> EvaluationContext:
        (tmp_path / name).mkdir(exist_ok=True)
        passes[0] = 0
        one = context(tmp_path / name)
        one.learner.settings.hardware.batch_tokens = 42  # 2 contexts of 19 tokens, read in chunks
        return one

    def count(*_: object) -> None:
        passes[0] += 1

    hook = MODEL.register_forward_hook(count)
    expected = found(evaluate(begin("whole"), task()))
    total, piece = passes[0], 6  # passes of the longest piece: 3 of a context, and its answer
    for stop_at in range(1, total, 8):
        stopped = begin(str(stop_at))
        stopped.should_stop = lambda at=stop_at: passes[0] >= at
        with pytest.raises(Interrupted):
            evaluate(stopped, task())
        assert passes[0] == stop_at  # between two chunks of a context
        assert found(evaluate(begin(str(stop_at)), task())) == expected
        assert passes[0] < total - stop_at + piece
        if task is Questions:
            one, other = (tmp_path / name / "predictions.jsonl" for name in ("whole", str(stop_at)))
            assert one.read_bytes() == other.read_bytes()
    hook.remove()


def test_b11_kill_9_in_the_middle_of_a_line(tmp_path: Path) -> None:
    expected = found(evaluate(context(tmp_path), Questions()))
    whole = (tmp_path / "evaluated.jsonl").read_bytes()
    predictions = (tmp_path / "predictions.jsonl").read_bytes()
    for size in range(0, len(whole), len(whole) // 9):
        (tmp_path / "evaluated.jsonl").write_bytes(whole[:size])
        (tmp_path / "predictions.jsonl").write_bytes(predictions[: size // 2])
        assert found(evaluate(context(tmp_path), Questions())) == expected
        assert (tmp_path / "evaluated.jsonl").read_bytes().count(b"\n") == whole.count(b"\n")
        assert (tmp_path / "predictions.jsonl").read_bytes() == predictions


def test_b11_predictions_of_other_weights_config_or_code_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def pieces(**identity: Any) -> Pieces:
        before = {"weights": "a", "code": "b", "task": {"seed": 42}, "logger": {"mode": "offline"}}
        one = context(tmp_path)
        return Pieces(one.folder, before | identity, one.console)

    assert pieces().once("cell", lambda: 1) == 1
    assert pieces().once("cell", lambda: 2) == 1
    assert pieces(logger={"mode": "disabled"}).once("cell", lambda: 2) == 1
    assert "again" not in capsys.readouterr().out
    for other in ({"weights": "c"}, {"code": "c"}, {"task": {"seed": 43}}):
        assert pieces(**other).once("cell", lambda: 3) == 3
        assert "evaluating everything again: " in capsys.readouterr().out


def test_b11_the_hash_of_the_weights_sees_one_bit() -> None:
    before = weights_hash(MODEL)
    bits = MODEL.embedding.weight.data.view(torch.int32)
    bits[3, 5] ^= 1
    assert weights_hash(MODEL) != before
    bits[3, 5] ^= 1
    assert weights_hash(MODEL) == before


def test_b11_sigterm_in_an_evaluation_and_resume_gives_the_record_of_an_uninterrupted_one(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = compose_settings([*EVALUATION, f"checkpoint={run_folder}", f"output_dir={tmp_path}"])
    with no_plots():
        whole = read_record(execute(settings, tmp_path / "whole"))
        forward, passes, stops = LanguageModel.forward, [0], [3, 9]

        def stopping(self: LanguageModel, *arguments: Any) -> Any:
            passes[0] += 1
            if stops and passes[0] == stops[0]:
                stops.pop(0)
                os.kill(os.getpid(), signal.SIGTERM)
            return forward(self, *arguments)

        monkeypatch.setattr(LanguageModel, "forward", stopping)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            execute(settings, tmp_path / "resumed")
        settings.resume = True
        assert folder_to_resume(settings) == tmp_path / "resumed"
        with pytest.raises(Stopped):
            execute(settings, tmp_path / "resumed")
        resumed = read_record(execute(settings, tmp_path / "resumed"))
    assert found(Scores(resumed.scores, resumed.depths)) == found(
        Scores(whole.scores, whole.depths)
    )
    assert (resumed.protocol, resumed.notes) == (whole.protocol, whole.notes)
    one, other = (tmp_path / name / "predictions.jsonl" for name in ("whole", "resumed"))
    assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.rglob("evaluated.jsonl"))
