"""Compare our Titans memory layer with titans-pytorch's: tokens/s and peak memory of training.

    pip install titans-pytorch
    python benchmarks/against_titans_pytorch.py [--tokens 1024 4096] [--chunks 16 64]

Both layers have the same shapes: one sequence, width 256, 4 heads of 64, a two-layer memory of
expansion 4 with momentum and decay, projections included. Every measurement runs in a process of
its own, the two layers in turn. The table shows medians over the rounds, and their ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from common import medians, run_alone

if TYPE_CHECKING:
    from torch import Tensor

WIDTH, HEADS = 256, 4


def ours(chunk: int) -> Callable[[Tensor], Tensor]:
    from atlas_bench.models.neural_memory import NeuralMemory
    from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings

    memory = MemorySettings(
        network="mlp", optimizer="momentum", rate_inside=True, chunk=chunk, gate="sigmoid",
        bounded_step=True, bounded_by="network",
    )  # fmt: skip
    model = ModelSettings(name="titans", memory=memory, initial_step=0.02)
    layer = NeuralMemory(model, ScaleSettings(width=WIDTH, heads=HEADS))
    layer.initialise()
    return lambda x: layer(x, layer.init_state(x.shape[0]))[0]


def theirs(chunk: int) -> Callable[[Tensor], Tensor]:
    from titans_pytorch import MemoryMLP, NeuralMemory

    layer = NeuralMemory(
        dim=WIDTH, dim_head=WIDTH // HEADS, heads=HEADS, chunk_size=chunk, momentum=True,
        model=MemoryMLP(WIDTH // HEADS, depth=2, expansion_factor=4.0),
    )  # fmt: skip
    return lambda x: layer(x)[0]


def measure(which: str, chunk: int, tokens: int) -> dict[str, float]:
    """Tokens/s of the faster of two passes after a warm-up, and the growth of the peak in bytes."""
    import torch

    from atlas_bench.evaluation.memory_use import Meter

    torch.manual_seed(0)
    run = {"ours": ours, "theirs": theirs}[which](chunk)
    x = torch.randn(1, tokens, WIDTH, requires_grad=True)
    run(x[:, : 2 * chunk]).sum().backward()
    meter = Meter(torch.device("cpu"))
    before, seconds = meter.seen, []
    for _ in range(2):
        started = time.perf_counter()
        run(x).sum().backward()
        seconds.append(time.perf_counter() - started)
    return {"speed": tokens / min(seconds), "memory": meter.peak() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--chunks", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        which, chunk, tokens = arguments.one
        print(json.dumps(measure(which, int(chunk), int(tokens))))
        return
    try:
        import titans_pytorch  # noqa: F401
    except ImportError:
        print(
            "benchmarks/against_titans_pytorch.py: needs titans-pytorch; pip install titans-pytorch"
        )
        sys.exit(2)
    print("| chunk | tokens | ours, tokens/s | theirs | ratio | ours, peak MiB | theirs | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for chunk in arguments.chunks:
        for tokens in arguments.tokens:
            rounds: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
            for _ in range(arguments.rounds):
                for which, results in rounds.items():
                    results.append(run_alone(__file__, which, str(chunk), str(tokens)))
            speed, memory = (
                {which: medians(results)[key] for which, results in rounds.items()}
                for key in ("speed", "memory")
            )
            print(
                f"| {chunk} | {tokens:,} | {speed['ours']:,.0f} | {speed['theirs']:,.0f} | "
                f"{speed['ours'] / speed['theirs']:.1f} | {memory['ours'] / 2**20:,.0f} | "
                f"{memory['theirs'] / 2**20:,.0f} | {memory['ours'] / memory['theirs']:.2f} |"
            )


if __name__ == "__main__":
    main()
