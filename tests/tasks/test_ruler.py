"""RULER samples: exact lengths, undamaged needles, true answers, and the same bytes everywhere."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from atlas_bench.tasks.ruler import needles
from atlas_bench.tasks.ruler.counting import FREQUENCIES, ZETA_2, cwe_frequencies
from atlas_bench.tasks.ruler.needles import NIAH, REPEATED
from atlas_bench.tasks.ruler.task import (
    NEW_TOKENS,
    SUBTASKS,
    RulerSettings,
    RulerTask,
)
from atlas_bench.tasks.ruler.words import KEYS, TIERS, WORDS, compound, draw
from atlas_bench.tasks.ruler.writing import Passage, TokenBuffer
from atlas_bench.tasks.task import Question
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer

NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")


def ask(task: RulerTask, subtask: str, length: int, count: int = 1) -> list[Question]:
    """Samples as the task makes them."""
    make = task._maker(subtask, length)
    return [make((42, subtask, length, index), index) for index in range(count)]


def text_of(asked: Question, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(asked.context_ids) + tokenizer.decode(asked.question_ids)


@pytest.mark.parametrize("subtask", SUBTASKS)
@pytest.mark.parametrize("length", [512, 1024, 4096])
def test_prompts_fill_the_length_and_are_their_text_in_tokens(
    subtask: str, length: int, ruler: RulerTask
) -> None:
    units = {"ruler_qa_1": 80, "ruler_qa_2": 80, "niah_multikey_3": 95}  # the longest that may lack
    for asked in ask(ruler, subtask, length, 3):
        assert asked.context_ids.dtype == asked.question_ids.dtype == np.int32
        left = length - NEW_TOKENS[subtask] - len(asked.context_ids) - len(asked.question_ids)
        least = {"essay": 0}.get(NIAH[subtask].haystack, 30) if subtask in NIAH else 30
        assert 0 <= left <= units.get(subtask, least)
        # put together from pieces, and the same as the text tokenised as a whole
        whole = ruler.tokenizer.encode(text_of(asked, ruler.tokenizer))
        assert [*asked.context_ids, *asked.question_ids] == [*whole, ruler.tokenizer.answer_id]
        context = ruler.tokenizer.decode(asked.context_ids)
        assert all(reference in context for reference in asked.references)
        assert asked.text in ruler.tokenizer.decode(asked.question_ids)


@pytest.mark.parametrize("subtask", NIAH)
def test_needles_answer_the_question(subtask: str, ruler: RulerTask) -> None:
    task = NIAH[subtask]
    for asked in ask(ruler, subtask, 2048, 5):
        text = text_of(asked, ruler.tokenizer)
        told: dict[str, list[str]] = {}
        for kind, key, value in NEEDLE.findall(text):
            assert kind == task.value
            told.setdefault(key, []).append(value)
        keys = re.split(r", and |, ", re.search(r" for (.+) mentioned", asked.text)[1])
        assert len(keys) == task.queries == len(set(keys))
        assert {len(told[key]) for key in keys} == {task.values}
        assert Counter(asked.references) == Counter(v for key in keys for v in told[key])
        if task.haystack == "needle":
            assert len(told) > 8
        else:
            assert len(told) == task.keys
        if task.haystack == "repeat":
            assert set(NEEDLE.sub("", text).split("\n")[1:-1]) == {REPEATED, ""}


@pytest.mark.parametrize("subtask", ["niah_single_1", "niah_single_2", "niah_multikey_2"])
def test_depth_is_where_the_needle_is(subtask: str, ruler: RulerTask) -> None:
    depths = []
    for asked in ask(ruler, subtask, 1024, 60):
        context = ruler.tokenizer.decode(asked.context_ids)
        body = context[context.index("\n") :]
        at = body.index(f"is: {asked.references[0]}.")
        assert asked.depth == pytest.approx(at / len(body), abs=0.12)
        depths.append(asked.depth)
    assert min(depths) < 0.1
    assert max(depths) > 0.9
    assert 0.35 < np.mean(depths) < 0.65


def test_several_needles_have_their_mean_depth_and_stand_apart(ruler: RulerTask) -> None:
    for asked in ask(ruler, "niah_multiquery", 4096, 10):
        context = ruler.tokenizer.decode(asked.context_ids)
        places = [match.start() / len(context) for match in NEEDLE.finditer(context)]
        assert asked.depth == pytest.approx(np.mean(places), abs=0.04)
        assert min(b - a for a, b in pairwise(places)) > 0.01
        for match in NEEDLE.finditer(context):
            if match.end() < len(context):  # at the very end the last sentence is cut
                assert context[: match.start()].rstrip()[-1] in ".!?;:\"')"  # none is split


def test_no_other_needle_has_the_key_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"words": ["dusty-otter", "calm-lever"], "numbers": ["7"]}
    monkeypatch.setattr(needles, "draw", lambda kind, split, rng: rng.choice(few[kind]))
    others = needles._distractors(NIAH["niah_multikey_2"], "dusty-otter", random.Random(0))
    told = [NEEDLE.search(line).group(2) for line in islice(others, 20)]
    assert told == ["calm-lever"] * 20


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("length", [1, 3, 11, 20, 21, 75])
def test_a_passage_goes_round_and_its_bounds_are_sentences(first: int, length: int) -> None:
    pool = NoisePool(np.arange(20, dtype=np.int32), np.array([0, 3, 7, 12, 14, 20]), np.array([0]))
    passage = Passage(pool, first, length)
    buffer = TokenBuffer(length)
    for begin in range(0, length, 6):
        passage.write(begin, min(length, begin + 6), buffer)
    start = int(pool.offsets[first])
    assert buffer.ids.tolist() == [(start + i) % 20 for i in range(length)]
    starts = [i for i in range(length) if (start + i) % 20 in pool.offsets[:-1]]
    assert [passage.bound(i) for i in range(passage.sentences)] == starts
    assert passage.bound(passage.sentences) == length


@pytest.mark.parametrize("length", [512, 1024, 4096])
def test_variables_are_traced(length: int, ruler: RulerTask) -> None:
    for asked in ask(ruler, "ruler_vt", length, 3):
        text = text_of(asked, ruler.tokenizer)
        assert text.count("Memorize and track") == (2 if length >= 1024 else 1)
        problem = text[text.rindex("Memorize and track") :]
        value = re.search(r"assigned the value (\d+) in", asked.text)[1]
        holders = []
        for name, other in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)$", problem, re.MULTILINE):
            assert other == (holders[-1] if holders else value)
            holders.append(name)
        assert tuple(holders) == asked.references
        assert len(set(holders)) == 5
        assert text.endswith(f"5 variables are assgined the value {value}, they are:")
        context = problem[: problem.rindex("\nQuestion")]
        places = [match.start() / len(context) for match in re.finditer(r"\nVAR", context)]
        assert asked.depth == pytest.approx(np.mean(places), abs=0.15)


@pytest.mark.parametrize(("length", "often", "seldom"), [(512, 3, 1), (1024, 6, 1), (4096, 30, 3)])
def test_common_words_are_counted(length: int, often: int, seldom: int, ruler: RulerTask) -> None:
    for asked in ask(ruler, "ruler_cwe", length, 2):
        text = text_of(asked, ruler.tokenizer)
        assert text.count("Below is a numbered list") == (1 if length < 1024 else 2)
        listed = text[text.rindex("often.\n") : text.rindex("\nQuestion")]
        entries = re.findall(r"(\d+)\. (\S+)", listed)
        assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
        counts = Counter(word for _, word in entries)
        assert {word for word, times in counts.items() if times == often} == set(asked.references)
        assert Counter(counts.values()) == {often: 10, seldom: len(counts) - 10}


def test_the_example_of_common_words_is_solved(ruler: RulerTask) -> None:
    text = text_of(ask(ruler, "ruler_cwe", 4096)[0], ruler.tokenizer)
    example = text[: text.rindex("Below is")]
    told, answer = example.split("Question:")
    counts = Counter(re.findall(r"\d+\. (\S+)", told))
    assert Counter(counts.values()) == {10: 10, 3: 30}
    assert {word for word, times in counts.items() if times == 10} == set(
        re.findall(r"\d+\. (\S+)", answer)
    )


def test_longer_lists_take_compound_words(ruler: RulerTask) -> None:
    (asked,) = ask(ruler, "ruler_cwe", 16_384)
    words = set(re.findall(r"\d\. (\S+)", ruler.tokenizer.decode(asked.context_ids)))
    assert len(words) > len(WORDS)
    assert {word.count("-") for word in asked.references} <= {0, 1}
    assert len({compound(index) for index in range(0, TIERS[2], 97)}) == len(range(0, TIERS[2], 97))


@pytest.mark.parametrize("length", [512, 4096, 65_536])
def test_coded_words_follow_the_power_law(length: int, ruler: RulerTask) -> None:
    (asked,) = ask(ruler, "ruler_fwe", length)
    context = ruler.tokenizer.decode(asked.context_ids)
    counts = Counter(context[context.index("coded words. ") :].split()[2:]).most_common()
    assert counts[0][0] == "..."
    assert tuple(word for word, _ in counts[1:4]) == asked.references
    assert counts[3][1] > counts[4][1]
    words = counts[0][1] * ZETA_2  # N, which the first count tells but for its fraction
    for rank, (_, times) in enumerate(counts[:20], 1):
        assert int(words / ZETA_2 / rank**2) <= times <= int((words + ZETA_2) / ZETA_2 / rank**2)


@pytest.mark.parametrize("subtask", ["ruler_qa_1", "ruler_qa_2"])
def test_documents_answer_the_question(subtask: str, ruler: RulerTask) -> None:
    for asked in ask(ruler, subtask, 4096, 8):
        context = ruler.tokenizer.decode(asked.context_ids)
        documents = re.split(r"\n\nDocument (\d+):\n", context)
        numbers, bodies = documents[1::2], documents[2::2]
        assert [int(number) for number in numbers] == list(range(1, len(bodies) + 1))
        assert len(bodies) > 20
        ship = re.search(r"ship (\S+?)[ ?]", asked.text)[1]
        (about,) = [body for body in bodies if body.startswith(f"The ship {ship} was")]
        if subtask == "ruler_qa_2":
            captain = re.search(r"captain is (\S+)\.", about)[1]
            (about,) = [b for b in bodies if b.startswith(f"The captain {captain} was")]
            assert "village of " + asked.references[0] in about
        assert asked.references[0] in about
        assert 0 <= asked.depth < 1


def test_keys_and_values_are_split(ruler: RulerTask) -> None:
    assert not set(KEYS["train"]) & set(KEYS["test"])
    parts = {part for key in KEYS["train"] for part in key.split("-")}
    assert {part for key in KEYS["test"] for part in key.split("-")} == parts == set(WORDS)
    for kind in ("numbers", "uuids"):
        for split in ("train", "test"):
            for _ in range(50):
                drawn = draw(kind, split, random.Random(_))
                number = int(drawn.replace("-", ""), 10 if kind == "numbers" else 16)
                assert (number % 7 == 0) == (split == "test")
    for subtask in NIAH:
        for asked in ask(ruler, subtask, 1024, 3):
            for kind, key, value in NEEDLE.findall(ruler.tokenizer.decode(asked.context_ids)):
                assert int(value.replace("-", ""), 10 if kind == "numbers" else 16) % 7 == 0
                assert key in KEYS["test"] or int(key.replace("-", ""), 16) % 7 == 0


# the same bytes everywhere --------------------------------------------------------------------

GOLDEN = {
    "niah_single_1": "6cac9b4e2bd46f95",
    "niah_single_2": "7bb3416328a118b7",
    "niah_single_3": "806d69a5e0a05510",
    "niah_multikey_1": "c42dd91b9d995535",
    "niah_multikey_2": "380338467391cc38",
    "niah_multikey_3": "1945190c7a709b28",
    "niah_multivalue": "c238fa3a863a9350",
    "niah_multiquery": "a0b72004cd2a484a",
    "ruler_vt": "db5ecc5c998279d6",
    "ruler_cwe": "02469aa86f6242c2",
    "ruler_fwe": "453bd33c211a61fa",
    "own_qa_1": "90bf3dc7e1e18654",
    "own_qa_2": "741f61affc5865b4",
}


def byte_task(folder: Path) -> RulerTask:
    """A tokenizer of single bytes, which no version of a library can change, and fixed prose."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    prose = (f"This is sentence number {number} of plain prose." for number in range(400))
    (folder / "prose.txt").write_text(" ".join(prose))
    text = TextSettings(source="folder", folder=str(folder), tokenizer=str(folder))
    return RulerTask(RulerSettings(lengths=["4k"]), text, seed=0, question_every=60)


def test_the_same_seed_gives_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    task = byte_task(tmp_path)
    found = {}
    for cell in task.cells():
        digest = hashlib.sha256()
        for asked in task.questions(cell, 2):
            text = text_of(asked, task.tokenizer)
            digest.update("\n".join([text, *asked.references, f"{asked.depth}"]).encode())
        found[cell.subtask] = digest.hexdigest()[:16]
    assert found == GOLDEN


def test_samples_differ_and_do_not_depend_on_what_was_drawn_before(ruler: RulerTask) -> None:
    for subtask in SUBTASKS:
        samples = ask(ruler, subtask, 1024, 3)
        again = ruler._maker(subtask, 1024)((42, subtask, 1024, 2), 2)
        assert again.references == samples[2].references
        assert np.array_equal(again.context_ids, samples[2].context_ids)
        assert len({sample.references for sample in samples}) == 3


# size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtask", ["niah_single_1", "niah_single_2", "ruler_vt"])
def test_ten_million_tokens_are_quick(subtask: str, ruler: RulerTask) -> None:
    length = 10 * 1024**2
    started = time.perf_counter()
    (asked,) = ask(ruler, subtask, length)
    assert time.perf_counter() - started < 10
    read = len(asked.context_ids) + len(asked.question_ids)
    assert length - 60 <= read + NEW_TOKENS[subtask] <= length


def test_prompts_too_long_name_the_key_and_what_is_needed(ruler: RulerTask) -> None:
    with pytest.raises(ValueError, match=r"task\.lengths: 200 .*niah_single_1, which needs 2\d\d"):
        ask(ruler, "niah_single_1", 200)
    with pytest.raises(ValueError, match=r"task\.lengths: 300 .*ruler_cwe, which needs \d\d\d"):
        ask(ruler, "ruler_cwe", 300)
    needed = FREQUENCIES[0].bound(4096, ruler.tokenizer)
    assert needed <= 4096
    assert cwe_frequencies(4095, ruler.tokenizer) == FREQUENCIES[1]
