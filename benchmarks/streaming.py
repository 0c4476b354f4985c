"""Peak memory and tokens/s of streaming evaluation at growing lengths.

    python benchmarks/streaming.py [--model atlas] [--lengths 64k 256k 1M]

Every length is measured in a process of its own, so that no peak is inherited. Each reads one
BABILong sample with an untrained model at scale=tiny; the cost does not depend on the weights.
"""

from __future__ import annotations

import argparse
import json

from common import compose_settings, run_alone

REPEATED_TOKENS = 100_000  # samples up to this length are read three times, and the best counts


def measure(model: str, length: str) -> dict:
    """Tokens/s and peak resident bytes of one sample."""
    from atlas_bench.evaluation.streaming import Prompt, generate
    from atlas_bench.models.build import build_model
    from atlas_bench.tasks.babi import PERSON_NAMES
    from atlas_bench.tasks.babilong.samples import evaluation_samples
    from atlas_bench.tasks.vocabulary import shared_tokenizer
    from atlas_bench.text.noise import load_noise

    settings = compose_settings([f"model={model}"])
    tokenizer = shared_tokenizer()
    network = build_model(
        settings.model, settings.scale, vocab_size=tokenizer.vocab_size, seed=0
    ).eval()
    noise = load_noise(settings.text, "test", tokenizer, without_names=PERSON_NAMES)
    (sample,) = evaluation_samples("qa1", length, 1, 42, noise=noise, tokenizer=tokenizer)
    hardware = settings.hardware

    def read(context: list[int]):
        return generate(
            network, [Prompt(context, sample.question_ids, 0)], max_new=2, end_id=tokenizer.end_id,
            prefill_chunk=hardware.prefill_chunk, batch_tokens=hardware.batch_tokens,
        )  # fmt: skip

    read(sample.context_ids[: hardware.prefill_chunk])  # to warm up
    generated = read(sample.context_ids)
    readings = [generated.tokens_per_second]
    if generated.tokens_read < REPEATED_TOKENS:
        readings += [read(sample.context_ids).tokens_per_second for _ in range(2)]
    return {
        "length": length,
        "tokens": generated.tokens_read,
        "tokens_per_second": round(max(readings)),
        "peak_memory_bytes": generated.peak_memory_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--lengths", nargs="+", default=["64k", "256k", "1M"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.model, arguments.one)))
        return
    rows = [run_alone(__file__, length, "--model", arguments.model) for length in arguments.lengths]
    first = rows[0]
    print("| length | tokens/s | to first | peak memory, MiB | to first |")
    print("|---|---|---|---|---|")
    for row in rows:
        speed = row["tokens_per_second"] / first["tokens_per_second"]
        memory = row["peak_memory_bytes"] / first["peak_memory_bytes"]
        print(
            f"| {row['length']} | {row['tokens_per_second']:,} | {speed:.2f} | "
            f"{row['peak_memory_bytes'] / 2**20:.0f} | {memory:.2f} |"
        )


if __name__ == "__main__":
    main()
