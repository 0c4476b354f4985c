"""What the memories did in the last forward pass, for the metrics of every step."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_bench.models.hybrids import memories_of
from atlas_bench.models.language_model import LanguageModel, ModelState
from atlas_bench.models.neural_memory import NeuralMemory


def change_of_memory(model: LanguageModel) -> Tensor:
    """Mean over layers, heads and tokens of written (below) plus forgotten, 1 - retain.

    Written is rate x weight, but for `muon` the rate alone: its update has the same norm whatever
    the weights of the tokens in it, so that a memory which sees nothing (weight 0) at a rate above
    0 goes on applying its last momentum. Of the gates as they open: a price on the step itself
    would keep old values from being replaced.
    """
    changes = []
    for gates in model.gates:
        terms = []
        written = _written(gates, model.spec.optimizer)
        if written is not None:
            terms.append(written.float().mean())
        if "retain" in gates:
            terms.append((1 - gates["retain"]).float().mean())
        if terms:
            changes.append(sum(terms))
    return torch.stack(changes).mean() if changes else model.embedding.weight.new_zeros(())


def _written(gates: dict[str, Tensor], optimizer: str) -> Tensor | None:
    """(B, T, H), or None where no gate says how much is written."""
    rate, weight = gates.get("rate"), gates.get("weight")
    if weight is None or (rate is not None and optimizer == "muon"):
        return rate
    weight = weight.mean(-1) if weight.dim() == 4 else weight
    return weight if rate is None else weight * rate


@torch.no_grad()
def memory_metrics(model: LanguageModel, state: ModelState | None) -> dict[str, Tensor]:
    """Means over layers, sequences and heads; {} for a model without a memory.

    Without a ``state``, as of documents that end anywhere, only those of the gates.
    ``memory_norm``: Frobenius norm of all weights at the end; ``memory_update``: of what they moved
    away from the initial ones; ``gate_*``: means of the gates as they open; ``pruned``: the share
    of tokens (and heads) that write exactly nothing.
    """
    norms, updates, means, pruned = [], [], {}, []
    modules, memories = [], []
    if state is not None:
        modules = [m for m in model.modules() if isinstance(m, NeuralMemory)]
        memories = [memory for layer in state.layers for memory in memories_of(layer)]
    for module, memory in zip(modules, memories, strict=True):
        squares, moved = 0.0, 0.0
        for name, weight in memory.weights.items():
            squares = squares + weight.square().sum((-2, -1))
            moved = moved + (weight - module.initial[name]).square().sum((-2, -1))
        norms.append(squares.sqrt().mean())
        updates.append(moved.sqrt().mean())
    for gates in model.gates:
        for name, gate in gates.items():
            means.setdefault(f"gate_{name}", []).append(gate.float().mean())
        written = _written(gates, model.spec.optimizer)
        if written is not None:
            pruned.append((written == 0).float().mean())
    found = {"memory_norm": norms, "memory_update": updates, "pruned": pruned} | means
    return {name: torch.stack(values).mean() for name, values in found.items() if values}
