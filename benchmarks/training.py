"""Compare the memories' training speed with our Transformer's at equal width and parameters.

    python benchmarks/training.py [--tokens 2048 8192] [--models titans omeganet atlas]

Tokens/s of one sequence, forward and backward with the loss. Models are their presets with two
layers of width 256, 4 heads, and keys of size 8 before an expanding phi; atlas updates every 16
tokens, atlas_every_token every token. Every measurement runs in a process of its own, all models in
turn. The table shows medians over the rounds. On a machine that others use, --cpu counts the
seconds of one thread's processor and not those of the clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from common import compose_settings, medians, run_alone

WIDTH = 256
SELDOM = ["model.memory.update_every=16", "model.memory.window=16"]
OVERRIDES = {
    "atlas": SELDOM,
    "atlas_ns1": SELDOM,
    "atlas_every_token": ["model.memory.update_every=1"],
}


def measure(model: str, tokens: int, clock: Callable[[], float]) -> dict[str, float]:
    """Tokens/s of the faster of two steps after a warm-up, and the number of parameters."""
    import torch

    from atlas_bench.models.build import build_model
    from atlas_bench.models.language_model import count_parameters

    preset = model.removesuffix("_every_token")
    overrides = [f"model={preset}", f"scale.width={WIDTH}", "scale.memory_key_dim=8"]
    overrides += OVERRIDES.get(model, [])
    settings = compose_settings(overrides)
    network = build_model(settings.model, settings.scale, vocab_size=1024, seed=0)
    ids = torch.randint(0, 1024, (1, tokens + 1), generator=torch.Generator().manual_seed(0))

    def step(length: int) -> None:
        hidden, _ = network(ids[:, :length])
        logits = network.logits(hidden).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[0, 1 : length + 1]).backward()

    step(min(tokens, 512))
    seconds = []
    for _ in range(2):
        started = clock()
        step(tokens)
        seconds.append(clock() - started)
    return {"speed": tokens / min(seconds), "parameters": count_parameters(network)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["titans", "omeganet", "atlas"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="one thread, CPU-seconds")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        model, tokens, cpu = arguments.one
        if cpu == "True":
            import torch

            torch.set_num_threads(1)
        clock = time.process_time if cpu == "True" else time.perf_counter
        print(json.dumps(measure(model, int(tokens), clock)))
        return
    print("| tokens | model | tokens/s | of the Transformer's |")
    print("|---|---|---|---|")
    for tokens in arguments.tokens:
        rounds: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for model in ("transformer", *arguments.models):
                result = run_alone(__file__, model, str(tokens), str(arguments.cpu))
                rounds.setdefault(model, []).append(result)
        transformer = medians(rounds["transformer"])["speed"]
        for model, results in rounds.items():
            speed = medians(results)["speed"]
            print(
                f"| {tokens:,} | {model} | {speed:,.0f} | {speed / transformer:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
