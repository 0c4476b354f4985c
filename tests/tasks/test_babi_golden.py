"""The same seed gives the same bytes on every machine: hashes of all worlds and a few samples."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from atlas_bench.tasks.babi import SUBTASKS, generate_questions
from atlas_bench.tasks.babilong.samples import evaluation_samples
from atlas_bench.text.noise import NoisePool

WORLDS = {
    "qa1": "ef6da0abe4e785dc",
    "qa2": "13ccd9f7a75737de",
    "qa3": "4efe5804ea15c8b1",
    "qa4": "e90e5ea5bcb5703c",
    "qa5": "658c3ac6567d0ea1",
    "qa6": "ac42e278b0cfd8f7",
    "qa7": "582746c465224bd3",
    "qa8": "630701a743690e5b",
    "qa9": "0580360fa2e4d038",
    "qa10": "e0bd381763e0151c",
    "qa11": "ed01b9deb686090e",
    "qa12": "ccd6aa88bd305c7f",
    "qa13": "a9911723df00fc4c",
    "qa14": "d29516410d85c364",
    "qa15": "da24cb477cf75a39",
    "qa16": "e76a39f20ff35d6c",
    "qa17": "cc9bff121d14a4a1",
    "qa18": "83cc3e2bab008956",
    "qa19": "5013a4ffd0841e4b",
    "qa20": "5b00fda88b088c13",
}

SAMPLES = {
    ("qa1", "0k"): "f0401ff6cba564d6",
    ("qa1", "16k"): "4dd893dda3578f17",
    ("qa3", "4k"): "1a5b66a47dc94b82",
    ("qa8", "2k"): "799227f15413c82a",
    ("qa14", "4k"): "e71eec08ff58523e",
    ("qa18", "128k"): "d7c704948a5762d4",
    ("qa20", "1M"): "34d75616c564435d",
}


class Bytes:
    """A tokenizer that depends on no library: each byte is a token."""

    def check_round_trip(self, texts: object) -> None: ...

    def encode_phrase(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode_phrase(text) for text in texts]


NOISE = NoisePool.from_sentences(
    [[f"Sentence {number} of book {book}." for number in range(9 + book)] for book in range(4)],
    Bytes(),
)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_worlds_are_the_same_everywhere(subtask: str) -> None:
    questions = itertools.islice(generate_questions(subtask, random.Random(20)), 200)
    digest = hashlib.sha256()
    for q in questions:
        digest.update("\n".join([*q.facts, q.question, q.answer, str(q.supports)]).encode())
    assert digest.hexdigest()[:16] == WORLDS[subtask]


@pytest.mark.parametrize(("subtask", "length"), SAMPLES)
def test_samples_are_the_same_everywhere(subtask: str, length: str) -> None:
    digest = hashlib.sha256()
    for sample in evaluation_samples(subtask, length, 5, 42, noise=NOISE, tokenizer=Bytes()):
        digest.update(sample.context_ids.astype("<i4").tobytes())
        digest.update(f"{sample.question}{sample.answer}{sample.fact_token_positions}".encode())
    assert digest.hexdigest()[:16] == SAMPLES[subtask, length]
