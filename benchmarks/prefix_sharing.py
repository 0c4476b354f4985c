"""Many questions over one long context beside one question over it, what they share read once.

    python benchmarks/prefix_sharing.py [--models deltanet] [--context 65536] [--questions 200]

Every question is 20 to 39 random tokens with a one-token answer to be scored, after a context of
random tokens; the models are untrained and of scale=tiny. Seconds are of processor time, the best
of three, so that other work on the machine does not decide the ratio.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from hydra import compose, initialize_config_dir

from atlas_bench.config.locations import folder_of
from atlas_bench.evaluation.lm_eval.likelihood import Continuation, score
from atlas_bench.evaluation.lm_eval.prefixes import PrefixReader
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.runs.checks import to_settings
from atlas_bench.runs.settings import register_schema

VOCABULARY = 1024


def build(name: str) -> LanguageModel:
    register_schema()
    with initialize_config_dir(str(folder_of("conf")), version_base="1.3"):
        settings = to_settings(compose("config", [f"model={name}"]))
    return build_model(settings.model, settings.scale, vocab_size=VOCABULARY, seed=0).eval()


def questions(context_tokens: int, count: int) -> list[Continuation]:
    drawn = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        return drawn.integers(0, VOCABULARY, length, dtype=np.int32)

    context = tokens(context_tokens)
    return [
        Continuation(np.concatenate([context, tokens(20 + number % 20)]), tokens(1))
        for number in range(count)
    ]


def seconds(model: LanguageModel, asked: list[Continuation]) -> tuple[float, int]:
    """Processor time of scoring them, and the tokens that the model read."""
    reader = PrefixReader(model, prefill_chunk=2048, batch_tokens=32768)
    started = time.process_time()
    score(reader, asked)
    return time.process_time() - started, reader.tokens_read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["deltanet"])
    parser.add_argument("--context", type=int, default=65536)
    parser.add_argument("--questions", type=int, default=200)
    arguments = parser.parse_args()
    asked = questions(arguments.context, arguments.questions)
    print(f"{arguments.questions} questions over {arguments.context:,} tokens\n")
    print("| model | one question, s | all, s | ratio | tokens read | without sharing |")
    print("|---|---|---|---|---|---|")
    apart = sum(len(one.context) for one in asked)
    for name in arguments.models:
        model = build(name)
        seconds(model, questions(4096, 2))  # to warm up
        one = min(seconds(model, asked[:1])[0] for _ in range(3))
        many, read = min(seconds(model, asked) for _ in range(3))
        print(f"| {name} | {one:.1f} | {many:.1f} | {many / one:.2f} | {read:,} | {apart:,} |")


if __name__ == "__main__":
    main()
