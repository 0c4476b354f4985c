"""The account of a model against sums written out by hand and against the model itself."""

from __future__ import annotations

import pytest

from atlas_bench.models.accounting import COUNTED_TOKENS, account, as_text
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import count_parameters
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings

SCALE = ScaleSettings(width=32, layers=3, heads=4, tie_embeddings=False, feed_forward=80)
TRANSFORMER = ModelSettings(name="transformer", mixers=["attention"])


def test_a_transformer_by_hand() -> None:
    costs = account(TRANSFORMER, SCALE, vocab_size=100)
    blocks = 3 * (4 * 32 * 32 + 3 * 32 * 80)
    assert costs.parameters == {
        "embedding": 3200,
        "mixers": 3 * 4 * 32 * 32,
        "initial memories": 0,
        "feed-forward": 3 * 3 * 32 * 80,
        "head": 3200,
        "norms": 7 * 32,
    }
    attention = 3 * 2 * 2 * 32 * COUNTED_TOKENS  # scores and values, masked half included
    assert costs.forward_operations == 2 * (blocks + 3200) + attention
    assert costs.training_operations == pytest.approx(3 * costs.forward_operations, rel=0.1)
    assert costs.state_bytes["128k"] == 2 * 3 * 32 * 131072 * 4
    assert costs.grows


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "muon"])
def test_a_memory(optimizer: str) -> None:
    model = ModelSettings(
        memory=MemorySettings(optimizer=optimizer, window=4, update_every=4), match="none"
    )
    costs = account(model, SCALE, vocab_size=100, tokens=64)
    assert costs.total == count_parameters(build_model(model, SCALE, vocab_size=100, seed=0))
    assert costs.parameters["initial memories"] == 3 * 4 * 2 * 8 * 32
    assert not costs.grows
    assert costs.training_operations > 2 * costs.forward_operations
    assert f"{costs.total:,} parameters" in as_text("atlas", costs)


def test_a_matched_state_holds_a_full_matrix() -> None:
    """Plain, deep and windowed: the same number of numbers, within a tenth."""
    sizes = []
    for model in (
        ModelSettings(memory=MemorySettings(network="matrix"), match="state"),
        ModelSettings(memory=MemorySettings(), match="state"),
    ):
        network = build_model(model, SCALE, vocab_size=100, seed=0)
        sizes.append(sum(w.numel() for w in network.blocks[0].mixer.initial.values()))
    assert all(abs(size / 32**2 - 1) <= 0.1 for size in sizes)
    with pytest.raises(ValueError, match="grows with the length"):
        account(ModelSettings(mixers=["attention"], match="state"), SCALE, vocab_size=100)
