"""A training step of the memories against our Transformer's of equal width and parameters.

    python benchmarks/training.py [--tokens 2048 8192] [--models titans omeganet atlas]

Tokens/s of one sequence, forward and backward with the loss, two layers of width 256 in 4 heads and
keys of 8 before an expanding phi, models as their presets have them (atlas updates every 16
tokens, atlas_every_token every one). Every cell is a process of its own, all models in turn, and
the median over the rounds is shown.
"""

from __future__ import annotations

import argparse
import json
import time

from cells import medians, run_cell

WIDTH = 256
OVERRIDES = {
    "atlas": ["model.memory.update_every=16", "model.memory.window=16"],
    "atlas_every_token": ["model.memory.update_every=1"],
}


def measure(model: str, tokens: int) -> dict[str, float]:
    """Tokens/s of the best of two steps after one to warm up, and parameters."""
    import torch
    from hydra import compose, initialize_config_dir

    from atlas_bench.config.locations import folder_of
    from atlas_bench.models.build import build_model
    from atlas_bench.models.language_model import count_parameters
    from atlas_bench.runs.checks import to_settings
    from atlas_bench.runs.settings import register_schema

    register_schema()
    preset = model.removesuffix("_every_token")
    overrides = [f"model={preset}", f"scale.width={WIDTH}", "scale.memory_key_dim=8"]
    overrides += OVERRIDES.get(model, [])
    with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
        settings = to_settings(compose("config", overrides))
    network = build_model(settings.model, settings.scale, vocab_size=1024, seed=0)
    ids = torch.randint(0, 1024, (1, tokens + 1), generator=torch.Generator().manual_seed(0))

    def step(length: int) -> None:
        hidden, _ = network(ids[:, :length])
        logits = network.logits(hidden).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[0, 1 : length + 1]).backward()

    step(min(tokens, 512))
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        step(tokens)
        seconds.append(time.perf_counter() - started)
    return {"speed": tokens / min(seconds), "parameters": count_parameters(network)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["titans", "omeganet", "atlas"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 8192])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        model, tokens = arguments.one
        print(json.dumps(measure(model, int(tokens))))
        return
    print("| tokens | model | tokens/s | of the Transformer's |")
    print("|---|---|---|---|")
    for tokens in arguments.tokens:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for model in ("transformer", *arguments.models):
                found.setdefault(model, []).append(run_cell(__file__, model, str(tokens)))
        ours = medians(found["transformer"])["speed"]
        for model, results in found.items():
            speed = medians(results)["speed"]
            print(f"| {tokens:,} | {model} | {speed:,.0f} | {speed / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
