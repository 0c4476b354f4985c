"""What the memories say of a forward pass: how much they change, for penalties and metrics."""

from __future__ import annotations

import pytest
import torch

from atlas_bench.models.build import build_model
from atlas_bench.models.neural_memory import gate_function
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings


@pytest.mark.parametrize(("optimizer", "written"), [("momentum", 0.5 * 0.25), ("muon", 0.5)])
def test_the_change_counts_what_moves_a_memory(optimizer: str, written: float) -> None:
    memory = MemorySettings(network="mlp", optimizer=optimizer, window=2)
    scale = ScaleSettings(width=16, layers=1, heads=2)
    model = build_model(ModelSettings(memory=memory), scale, vocab_size=32, seed=0)
    gate = torch.ones(1, 8, 2)
    (mixer,) = model.mixers
    mixer.observed = {"rate": 0.5 * gate, "weight": 0.25 * gate, "retain": 0.9 * gate}
    assert model.auxiliary_losses()["memory_change"].item() == pytest.approx(written + 0.1)


def test_a_memory_without_gates_changes_nothing_that_is_penalised() -> None:
    settings = ModelSettings(write_gate=False, memory=MemorySettings(retain="none"))
    model = build_model(settings, ScaleSettings(width=16, heads=2), vocab_size=32, seed=0)
    model(torch.zeros(1, 4, dtype=torch.long))
    assert model.auxiliary_losses()["memory_change"] == 0


def test_the_metrics_say_what_the_memories_did() -> None:
    memory = MemorySettings(
        network="matrix", optimizer="momentum", chunk=8, bounded_step=True, gate="hard_sigmoid"
    )
    scale = ScaleSettings(width=16, layers=2, heads=2)
    model = build_model(ModelSettings(memory=memory), scale, vocab_size=32, seed=0)
    with torch.no_grad():
        for mixer in model.mixers:  # every rate is exactly 0, everything is kept
            retain, rate, momentum = mixer.gate.bias.split([2, 2, 2])
            retain.fill_(9.0)
            rate.fill_(-9.0)
            momentum.fill_(0.0)
            mixer.gate.weight.zero_()
        _, state = model(torch.zeros(2, 24, dtype=torch.long))
    metrics = model.metrics(state)
    norms = [
        sum(w.square().sum((-2, -1)) for w in mixer.initial.values()).sqrt().mean()
        for mixer in model.mixers
    ]
    assert metrics["pruned"] == 1
    assert metrics["gate_retain"] == 1
    assert metrics["memory_update"] == 0
    torch.testing.assert_close(metrics["memory_norm"], torch.stack(norms).mean())
    without_state = model.metrics(None)
    assert without_state.keys() == {"pruned", "gate_retain", "gate_rate", "gate_momentum"}


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_a_memory_starts_by_keeping_as_much_whatever_its_gate(gate: str) -> None:
    """Gated DeltaNet, whose sigmoid kept 0.948 per token, learnt BABILong at no rate of six."""
    settings = ModelSettings(memory=MemorySettings(gate=gate), match="none")
    model = build_model(settings, ScaleSettings(width=16, heads=2), vocab_size=16, seed=0)
    mixer = model.blocks[0].mixer
    sizes = [size * mixer.heads for size in mixer.gate_sizes.values()]
    biases = dict(zip(mixer.gate_sizes, mixer.gate.bias.split(sizes), strict=True))
    kept = gate_function(mixer.spec, biases["retain"])
    torch.testing.assert_close(kept, torch.full_like(kept, 59 / 60))
