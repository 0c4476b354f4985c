"""Compare the exact recurrences with their fast settings: cost, speed and accuracy in recall.

    python benchmarks/exact_paths.py [--steps 500] [--only atlas]

For every setting at scale=tiny the table shows

- FLOPs of matrix products per token, counted on the model, in the forward pass and a training step
- tokens/s of a training step on one sequence of 2,048 tokens
- accuracy in multi-query associative recall (after Zoology, 2312.04927) after STEPS steps: PAIRS
  keys with their values, then every key again in random order, to be followed by its value
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import compose_settings
from torch.nn import functional as F

from atlas_bench.models.accounting import account
from atlas_bench.models.build import build_model
from atlas_bench.runs.settings import RunSettings

SETTINGS = {
    "deltanet, exact (WY)": ["model=deltanet"],
    "delta_ttt, exact (two WY)": ["model=delta_ttt"],
    "deltanet, chunk=16": ["model=deltanet", "model.memory.chunk=16"],
    "titans, chunk=1 (exact)": ["model=titans", "model.memory.chunk=1"],
    "titans, chunk=16": ["model=titans"],
    "titans, chunk=64": ["model=titans", "model.memory.chunk=64"],
    "atlas, update_every=1 (as printed)": ["model=atlas", "model.memory.update_every=1"],
    "atlas, update_every=4": ["model=atlas"],
    "atlas, update_every=16": [
        "model=atlas", "model.memory.update_every=16", "model.memory.window=16",
    ],
}  # fmt: skip
VOCABULARY, PAIRS = 64, 8  # one half of the vocabulary are keys, the other half values
BATCH, TEST_BATCHES = 32, 16
TIMED_TOKENS = 2048


def recall_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, both (BATCH, 4 PAIRS).

    Keys and values alternate, then the same pairs follow in another order. The target is the value
    at the second occurrence of each key, and -1 elsewhere.
    """
    generator = np.random.default_rng(seed)
    half = VOCABULARY // 2
    keys = generator.permuted(np.tile(np.arange(half), (BATCH, 1)), axis=1)[:, :PAIRS]
    values = half + generator.integers(0, half, (BATCH, PAIRS))
    order = generator.permuted(np.tile(np.arange(PAIRS), (BATCH, 1)), axis=1)
    context = np.stack([keys, values], -1).reshape(BATCH, -1)
    questions = np.stack([np.take_along_axis(x, order, 1) for x in (keys, values)], -1)
    targets = np.full((BATCH, 4 * PAIRS), -1)
    targets[:, 2 * PAIRS :: 2] = questions[..., 1]
    tokens = np.concatenate([context, questions.reshape(BATCH, -1)], 1)
    return torch.from_numpy(tokens), torch.from_numpy(targets)


def recall(settings: RunSettings, steps: int) -> float:
    """The share of correct answers on batches that are not in the training data."""
    model = build_model(settings.model, settings.scale, vocab_size=VOCABULARY, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        tokens, targets = recall_batch(step)
        loss = F.cross_entropy(
            model.logits(model(tokens)[0]).flatten(0, 1), targets.flatten(), ignore_index=-1
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    correct = questions = 0
    model.eval()
    with torch.inference_mode():
        for batch in range(TEST_BATCHES):
            tokens, targets = recall_batch(10**6 + batch)
            predictions = model.logits(model(tokens)[0]).argmax(-1)
            correct += (predictions == targets).sum().item()
            questions += (targets >= 0).sum().item()
    return correct / questions


def speed(settings: RunSettings) -> float:
    """Tokens/s of a training step on one sequence, the best of three after a warm-up."""
    model = build_model(settings.model, settings.scale, vocab_size=1024, seed=0)
    ids = torch.randint(0, 1024, (1, TIMED_TOKENS), generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        F.cross_entropy(model.logits(model(ids)[0])[0, :-1], ids[0, 1:]).backward()
        seconds.append(time.perf_counter() - started)
    return TIMED_TOKENS / min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", default="", help="settings whose name starts with this")
    parser.add_argument("--no-speed", action="store_true")
    arguments = parser.parse_args()
    print(
        "| setting | forward, MFLOP a token | training | training tokens/s | recall, % |\n"
        "|---|---|---|---|---|"
    )
    for name, overrides in SETTINGS.items():
        if not name.startswith(arguments.only):
            continue
        settings = compose_settings(overrides)
        costs = account(settings.model, settings.scale, vocab_size=1024)
        timed = "-" if arguments.no_speed else f"{speed(settings):,.0f}"
        accuracy = 100 * recall(settings, arguments.steps)
        print(
            f"| {name} | {costs.forward_operations / 1e6:.2f} | "
            f"{costs.training_operations / 1e6:.2f} | {timed} | {accuracy:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
