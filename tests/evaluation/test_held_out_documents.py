"""Held-out documents: scored from a fresh state each, and again from a checkpoint alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atlas_bench.cli.compose import compose_settings
from atlas_bench.evaluation.token_predictions import predict
from atlas_bench.models.build import build_model
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.runs.execute import execute
from atlas_bench.tasks.task import Batch
from atlas_bench.text.tokenizer import Tokenizer, train_tokenizer

SMALL = [
    "task=lm", "model=deltanet", "scale.width=16", "logger=none", "hardware=cpu", "text=folder",
    "training.tokens=2048", "training.batch_tokens=512", "task.lengths=[64,1k]",
    "training.curriculum.stages=[{length: 128}]",
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("prefill_chunk", [7, 64])
def test_documents_of_a_row_are_scored_as_if_each_stood_alone(prefill_chunk: int) -> None:
    model = build_model(
        ModelSettings(mixers=["attention"]), ScaleSettings(width=16, heads=2), vocab_size=32, seed=0
    )
    model.double().eval()
    random = np.random.default_rng(0)
    tokens = random.integers(0, 32, (2, 41), dtype=np.int32)
    mask = random.random((2, 40)) < 0.5
    starts = np.zeros((2, 40), dtype=bool)
    starts[0, [0, 9, 30]] = starts[1, 0] = True
    batch = Batch(tokens[:, :-1], tokens[:, 1:], mask, starts)
    found = predict(model, batch, prefill_chunk=prefill_chunk, first_example=5)
    wanted = np.zeros((2, 40), dtype=np.float32)
    for row, begin, end in ((0, 0, 9), (0, 9, 30), (0, 30, 40), (1, 0, 40)):
        hidden, _ = model(torch.from_numpy(tokens[row, begin:end])[None].long())
        targets = torch.from_numpy(tokens[row, begin + 1 : end + 1]).long()
        losses = F.cross_entropy(model.logits(hidden[0]), targets, reduction="none")
        wanted[row, begin:end] = losses
    assert np.array_equal(found.example - 5, np.nonzero(mask)[0])
    assert np.array_equal(found.position, np.nonzero(mask)[1])
    assert np.array_equal(found.target, tokens[:, 1:][mask])
    np.testing.assert_allclose(found.loss, wanted[mask], rtol=1e-6)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer, Path]:
    """A folder of documents, and a tokenizer that is not the default, with its folder."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(16):
        words = " ".join(f"word{number * place % 17}" for place in range(20 + 10 * number))
        (folder / f"{number:02d}.txt").write_text(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        tokenizer = train_tokenizer(600)
    home = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(home)
    return folder, tokenizer, home


def record_of(folder: Path, *overrides: str) -> dict:
    settings = compose_settings([*SMALL, *overrides])
    return json.loads(execute(settings, folder).read_text())


def test_a_checkpoint_is_scored_with_the_tokenizer_it_was_trained_with(
    corpus: tuple[Path, Tokenizer, Path], tmp_path: Path
) -> None:
    texts, tokenizer, home = corpus
    text = f"text.folder={texts}"
    trained = record_of(tmp_path / "one", text, f"text.tokenizer={home}")
    (saved,) = (tmp_path / "one/checkpoints").glob("step-*/tokenizer.json")
    again = record_of(tmp_path / "two", text, "mode=eval", f"checkpoint={tmp_path / 'one'}")
    assert saved.is_file()
    assert again["tokenizer"] == trained["tokenizer"] == {
        "name": "bpe-600", "fingerprint": tokenizer.fingerprint, "vocab_size": 600,
    }  # fmt: skip
    numbers = [[(s["metric"], s["length_name"], s["value"]) for s in r["scores"]] for r in
               (trained, again)]  # fmt: skip
    assert numbers[0] == numbers[1]
    value = {(metric, length): number for metric, length, number in numbers[0]}
    assert 1 < value["perplexity", "64"] < 1000
    assert value["position_loss", "64"] == pytest.approx(math.log(value["perplexity", "64"]), 0.2)
    assert trained["protocol"]["memory"] == "reset where a document starts"
    assert trained["config"]["training"]["language_modelling_weight"] == 0
    assert all(score["ci_low"] is None for score in trained["scores"])
    assert (tmp_path / "one/plots/position_loss.png").stat().st_size > 5000
