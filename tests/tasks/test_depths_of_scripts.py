"""Trust A6: needles and facts lie at every depth, whatever the script of the text around them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from atlas_bench.tasks.babilong.samples import evaluation_samples
from atlas_bench.tasks.ruler.needles import niah_sample
from atlas_bench.tasks.ruler.writing import Frame
from atlas_bench.text.corpora import Book, Corpus, sentences
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer


def prose(letters: str, space: str, mark: str) -> str:
    """Sentences of words of a script."""
    rng = random.Random(0)

    def word() -> str:
        return "".join(rng.choices(letters, k=rng.randint(2, 6)))

    lines = (space.join(word() for _ in range(rng.randint(4, 12))) + mark for _ in range(800))
    return "".join(lines)


SCRIPTS = {
    "Chinese": ("日月山水火木金土人天", "", "。"),
    "Devanagari": ("कखगघचछजझटठ", " ", "। "),
    "Arabic": ("ابتثجحخدذر", " ", "؟ "),
    "Thai": ("กขคงจฉชซญด", "", ""),  # neither marks nor spaces
    "no marks": ("abcdefghij", " ", " "),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_needles_and_facts_lie_at_every_depth(script: str, tokenizer: Tokenizer) -> None:
    corpus = Corpus(script, (Book("a", prose(*SCRIPTS[script])),))
    pool = NoisePool.from_sentences(sentences(corpus), tokenizer)
    frame = Frame(tokenizer, np.zeros(1, dtype=np.int32), pool)
    needles = [niah_sample("niah_single_2", 4096, (0, i), frame).depth for i in range(40)]
    samples = evaluation_samples("qa1", "4k", 10, 0, noise=pool, tokenizer=tokenizer)
    facts = [
        place / len(sample.context_ids)
        for sample in samples
        for place in sample.fact_token_positions
    ]
    for depths in (needles, facts):
        counts, _ = np.histogram(depths, bins=4, range=(0, 1))
        assert counts.min() >= len(depths) / 10, counts
