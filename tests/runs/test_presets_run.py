"""Every preset through the same command: trains, is stopped, resumes, decodes, streams, records."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from presets import OTHERS_SLOW

import atlas_bench.runs.execute
import atlas_bench.runs.learners.language_model
import atlas_bench.runs.show
from atlas_bench.cli.compose import compose_settings
from atlas_bench.training.loop import Trainer

SMALL = [
    "training.tokens=512", "training.batch_tokens=128", "training.checkpoint_every=100",
    "training.curriculum.stages=[{length:64,noise:0.0,coarse:true},{length:128,noise:0.5}]",
    "training.curriculum.longest=0.5", "training.min_sequences=1", "task.lengths=[1k]",
    "task.samples=2", "logger=none", "hardware.device=cpu", "hardware.prefill_chunk=400",
]  # fmt: skip


class StoppedAtStep2(Trainer):
    def _step(self) -> dict[str, float]:
        metrics = super()._step()
        if metrics["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics


@pytest.mark.parametrize("name", OTHERS_SLOW)
def test_runs_and_resumes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # test_run.py looks at the plots
    monkeypatch.setattr(atlas_bench.runs.show, "draw_plots", lambda *arguments, **options: {})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = compose_settings([f"model={name}", *SMALL])
    record = json.loads(atlas_bench.runs.execute.execute(settings, whole).read_text())
    assert record["model"] == name
    assert record["parameters"] == pytest.approx(163_136, rel=0.01)
    assert all(score["samples"] == 2 for score in record["scores"])
    with monkeypatch.context() as patch:
        patch.setattr(atlas_bench.runs.learners.language_model, "Trainer", StoppedAtStep2)
        with pytest.raises(atlas_bench.runs.execute.Stopped, match="stopped by SIGTERM"):
            atlas_bench.runs.execute.execute(replace(settings, mode="train"), cut)
    atlas_bench.runs.execute.execute(replace(settings, mode="train", resume=True), cut)
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, cut)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
