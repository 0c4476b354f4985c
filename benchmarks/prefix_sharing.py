"""Compare many questions over one long context with one question over it; the context is read once.

    python benchmarks/prefix_sharing.py [--models deltanet] [--context 65536] [--questions 200]

Every question is 20 to 39 random tokens with an answer of one token, to be scored after a context
of random tokens. The models are untrained, at scale=tiny. Seconds are processor time, the best of
three, so that other work on the machine does not change the ratio.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import compose_settings

from atlas_bench.evaluation.lm_eval.likelihood import Continuation, score
from atlas_bench.evaluation.lm_eval.prefixes import PrefixReader
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel

VOCABULARY = 1024


def build(name: str) -> LanguageModel:
    settings = compose_settings([f"model={name}"])
    return build_model(settings.model, settings.scale, vocab_size=VOCABULARY, seed=0).eval()


def questions(context_tokens: int, count: int) -> list[Continuation]:
    generator = np.random.default_rng(0)

    def tokens(length: int) -> np.ndarray:
        return generator.integers(0, VOCABULARY, length, dtype=np.int32)

    context = tokens(context_tokens)
    return [
        Continuation(np.concatenate([context, tokens(20 + number % 20)]), tokens(1))
        for number in range(count)
    ]


def seconds(model: LanguageModel, continuations: list[Continuation]) -> tuple[float, int]:
    """The processor time of scoring them, and the tokens that the model read."""
    reader = PrefixReader(model, prefill_chunk=2048, batch_tokens=32768)
    started = time.process_time()
    score(reader, continuations)
    return time.process_time() - started, reader.tokens_read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["deltanet"])
    parser.add_argument("--context", type=int, default=65536)
    parser.add_argument("--questions", type=int, default=200)
    arguments = parser.parse_args()
    continuations = questions(arguments.context, arguments.questions)
    print(f"{arguments.questions} questions over {arguments.context:,} tokens\n")
    print("| model | one question, s | all, s | ratio | tokens read | without sharing |")
    print("|---|---|---|---|---|---|")
    apart = sum(len(one.context) for one in continuations)
    for name in arguments.models:
        model = build(name)
        seconds(model, questions(4096, 2))  # to warm up
        one = min(seconds(model, continuations[:1])[0] for _ in range(3))
        many, read = min(seconds(model, continuations) for _ in range(3))
        print(f"| {name} | {one:.1f} | {many:.1f} | {many / one:.2f} | {read:,} | {apart:,} |")


if __name__ == "__main__":
    main()
