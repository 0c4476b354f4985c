"""BABILong training streams: exact masks, true answers, noise left whole, long silences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from atlas_bench.tasks.babi import ENDLESS, SUBTASKS, solve
from atlas_bench.tasks.babilong.streams import Stream, StreamGenerator
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer


def noise_of_tokens(stream: Stream) -> np.ndarray:
    """The noise mask of every token; the first is no target, but no sentence is one token long."""
    return np.concatenate([stream.noise_mask[:1], stream.noise_mask])


def read_stream(
    stream: Stream, tokenizer: Tokenizer
) -> tuple[list[str | tuple[str, str]], np.ndarray]:
    """Facts as text and questions as (question, answer), in order; and the noise tokens."""
    tokens, is_noise = stream.tokens, noise_of_tokens(stream)
    told: list[str | tuple[str, str]] = []
    text: list[int] = []
    answer: list[int] | None = None
    for token in tokens[~is_noise].tolist():
        if token == tokenizer.answer_id:
            answer = []
        elif token == tokenizer.end_id:
            told.append((tokenizer.decode(text).strip(), tokenizer.decode(answer).strip()))
            text, answer = [], None
        elif answer is not None:
            answer.append(token)
        else:
            text.append(token)
            if tokenizer.decode([token]) == ".":
                told.append(tokenizer.decode(text).strip())
                text = []
    return told, tokens[is_noise]


def make_streams(
    tokenizer: Tokenizer, noise: NoisePool, subtask: str | list[str], count: int, **options: object
) -> list[Stream]:
    settings: dict[str, object] = {"length_tokens": 2048, "noise_share": 0.8, **options}
    generator = StreamGenerator(subtask, noise, tokenizer, **settings)
    return list(itertools.islice(generator, count))


@pytest.mark.parametrize("subtask", SUBTASKS)
@pytest.mark.parametrize("noise_share", [0.0, 0.5, 0.99])
def test_stream_shapes_and_masks(
    subtask: str, noise_share: float, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    for stream in make_streams(tokenizer, noise, subtask, 3, noise_share=noise_share):
        assert stream.tokens.shape == (2049,)
        assert stream.tokens.dtype == np.int32
        assert stream.answer_mask.shape == stream.noise_mask.shape == (2048,)
        assert not (stream.answer_mask & stream.noise_mask).any()
        inside, wanted = False, []
        for token, following in itertools.pairwise(stream.tokens.tolist()):
            inside = (inside and token != tokenizer.end_id) or token == tokenizer.answer_id
            wanted.append(inside)
            assert (following == tokenizer.end_id) <= inside
        assert stream.answer_mask.tolist() == wanted
        assert any(wanted)
        if noise_share == 0:
            assert not stream.noise_mask.any()
        else:
            # a story that must be told whole may take more than its share
            least = min(noise_share, 1 - 400 / 2048) - 0.05
            assert least <= stream.noise_mask.mean() <= noise_share + 0.06


@pytest.mark.parametrize("noise_share", [0.5, 0.9])
def test_stream_noise_is_one_uncut_passage(
    noise_share: float, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    for stream in make_streams(tokenizer, noise, "qa1", 4, noise_share=noise_share):
        passage = read_stream(stream, tokenizer)[1]
        starts = noise.offsets[:-1]
        doubled = np.concatenate([noise.tokens, noise.tokens])
        assert any(
            np.array_equal(doubled[start : start + len(passage)], passage) for start in starts
        )


@pytest.mark.parametrize("subtask", [name for name in SUBTASKS if name in ENDLESS])
@pytest.mark.parametrize("noise_share", [0.0, 0.9])
def test_stream_answers_are_true(
    subtask: str, noise_share: float, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    asked = 0
    for stream in make_streams(tokenizer, noise, subtask, 6, noise_share=noise_share):
        facts: list[str] = []
        for item in read_stream(stream, tokenizer)[0]:
            if isinstance(item, str):
                facts.append(item)
                continue
            assert solve(subtask, facts, item[0]) == item[1]
            asked += 1
    assert asked >= 12


@pytest.mark.parametrize("subtask", [name for name in SUBTASKS if name not in ENDLESS])
def test_short_stories_are_asked_about_while_they_hold(
    subtask: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    """Each question is answered by its own story: the statements that end before it."""
    asked = 0
    for stream in make_streams(tokenizer, noise, subtask, 6):
        facts: list[str] = []
        for item in read_stream(stream, tokenizer)[0]:
            if isinstance(item, str):
                facts.append(item)
                continue
            # the longest story is 15 statements; some number of the last ones is this question's
            assert item[1] in {answer_of(subtask, facts[-n:], item[0]) for n in range(1, 16)}
            asked += 1
    assert asked > 20


def answer_of(subtask: str, facts: list[str], question: str) -> str:
    try:
        return solve(subtask, facts, question)
    except ValueError:
        return ""


def test_stream_depends_on_seed_and_index_alone(tokenizer: Tokenizer, noise: NoisePool) -> None:
    def generator(seed: int) -> StreamGenerator:
        names = ["qa1", "qa2", "qa4", "qa5"]
        return StreamGenerator(names, noise, tokenizer, length_tokens=1000, seed=seed)

    straight = list(itertools.islice(generator(0), 6))
    other = generator(0)
    for index in (5, 0, 3, 5):
        assert np.array_equal(other.stream(index).tokens, straight[index].tokens)
    assert not np.array_equal(generator(1).stream(0).tokens, straight[0].tokens)
    assert not np.array_equal(straight[0].tokens, straight[1].tokens)
    batch = other.batch(2, 3)
    assert batch.tokens.shape == (3, 1001)
    assert batch.answer_mask.shape == (3, 1000)
    assert np.array_equal(batch.tokens[1], straight[3].tokens)


def question_positions(stream: Stream, tokenizer: Tokenizer) -> np.ndarray:
    return np.flatnonzero(stream.tokens == tokenizer.answer_id)


@pytest.mark.parametrize("subtask", ["qa1", "qa2", "qa5"])
@pytest.mark.parametrize("every", [256, 1024])
def test_questions_come_as_often_as_wished(
    subtask: str, every: int, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    streams = make_streams(
        tokenizer, noise, subtask, 4, length_tokens=8192, noise_share=0.7, question_every=every
    )
    counts = [len(question_positions(stream, tokenizer)) for stream in streams]
    assert all(0.7 <= count * every / 8192 <= 1.3 for count in counts), counts


@pytest.mark.parametrize("subtask", ["qa1", "qa2", "qa5"])
def test_long_silences_before_questions_are_common(
    subtask: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    silences = []
    ends = {tokenizer.end_id, *tokenizer.encode(".")}
    for stream in make_streams(tokenizer, noise, subtask, 8, length_tokens=8192, noise_share=0.95):
        is_noise = noise_of_tokens(stream)
        for position in question_positions(stream, tokenizer):
            start = position
            while start and not is_noise[start - 1] and stream.tokens[start - 1] not in ends:
                start -= 1
            silence = start
            while silence and is_noise[silence - 1]:
                silence -= 1
            silences.append(start - silence)
    assert np.mean(np.array(silences) > 200) > 0.2


def test_streams_ask_about_facts_far_behind(tokenizer: Tokenizer, noise: NoisePool) -> None:
    distances = []
    for stream in make_streams(tokenizer, noise, "qa1", 8, length_tokens=8192, noise_share=0.95):
        since: dict[str, int] = {}
        for position, item in enumerate(read_stream(stream, tokenizer)[0]):
            if isinstance(item, str):
                since[item.split()[0]] = position
            else:
                distances.append(position - since[item[0].rstrip("?").split()[-1]])
    assert np.mean(np.array(distances) >= 5) > 0.15
    assert max(distances) >= 12


def test_several_noise_shares_are_mixed(tokenizer: Tokenizer, noise: NoisePool) -> None:
    streams = make_streams(tokenizer, noise, "qa1", 12, noise_share=[0.2, 0.9])
    shares = [stream.noise_mask.mean() for stream in streams]
    assert min(shares) < 0.3
    assert max(shares) > 0.8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise_share": 1.0}, "noise_share: 1.0"),
        ({"noise_share": []}, "noise_share"),
        ({"length_tokens": 0}, "length_tokens: 0"),
        ({"question_every": 0}, "question_every: 0"),
        ({"subtasks": "qa99"}, "subtasks: .*qa99"),
        ({"subtasks": []}, "subtasks: none given"),
    ],
)
def test_bad_stream_options_are_named(
    change: dict[str, object], words: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    options = {"subtasks": "qa1", "length_tokens": 100} | change
    with pytest.raises(ValueError, match=words):
        StreamGenerator(options.pop("subtasks"), noise, tokenizer, **options)


def test_a_stream_too_short_for_a_story_says_so(tokenizer: Tokenizer, noise: NoisePool) -> None:
    generator = StreamGenerator("qa3", noise, tokenizer, length_tokens=20)
    with pytest.raises(ValueError, match="length_tokens: 20 is too short for a story of qa3"):
        generator.stream(0)
