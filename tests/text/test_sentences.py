"""Sentences: English as ever, the marks of other scripts, and parts of what is too long (A6)."""

from __future__ import annotations

import hashlib
import time

import pytest

from atlas_bench.text.corpora import load_corpus, sentences
from atlas_bench.text.sentences import LONGEST_WITHOUT_MARK, PIECE, split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One came. Two left!  Who?", ["One came.", "Two left!", "Who?"]),
        ("He said “Go!” Then he\nwent.", ["He said “Go!”", "Then he went."]),
        ("Mr. Smith met J. Brown. He left.", ["Mr. Smith met J. Brown.", "He left."]),
        ("“Oh!” said he. So be it.", ["“Oh!” said he.", "So be it."]),
        ("A heading\n\nThe text. No end", ["A heading", "The text.", "No end"]),
        ("It was I. She knew 3.5 of them.", ["It was I.", "She knew 3.5 of them."]),
        ("Wait...!! What?!) Yes", ["Wait...!!", "What?!)", "Yes"]),
        ("", []),
    ],
)
def test_split_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_the_embedded_text_has_the_sentences_it_always_had() -> None:
    """Frozen before other scripts were known: the default runs depend on them."""
    found = {
        split: [line for book in sentences(load_corpus(split=split)) for line in book]
        for split in ("train", "test")
    }
    hashes = {
        split: hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        for split, lines in found.items()
    }
    assert {split: len(lines) for split, lines in found.items()} == {"train": 25528, "test": 2840}
    assert hashes == {"train": "ca5bb9bd2a4bf83e", "test": "698eb83c23be18f4"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他说：「你好。」他走了。「再见！」", ["他说：「你好。」", "他走了。", "「再见！」"]),
        ("価格は３．５円です．次の文．", ["価格は３．５円です．", "次の文．"]),
        ("मैं घर गया। वह आया॥ कौन?", ["मैं घर गया।", "वह आया॥", "कौन?"]),
        ("هل جئت؟ نعم، جئت۔ انتهى.", ["هل جئت؟", "نعم، جئت۔", "انتهى."]),
        ("ሰላም ነው። ደህና ነኝ።", ["ሰላም ነው።", "ደህና ነኝ።"]),
        ("Ինչպես ես։ Լավ։", ["Ինչպես ես։", "Լավ։"]),
        ("Er kam。Then he went。", ["Er kam。", "Then he went。"]),
    ],
)  # fmt: skip
def test_marks_of_other_scripts_end_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "สวัสดีครับวันนี้อากาศดีมาก" * 200,  # neither marks nor spaces
        "ตอนเช้า ฝนตก " * 300,
        "一二三四五，六七八九十" * 300,
        "word " * 2000,
        "दिन भर काम किया और फिर सो गया " * 200,
        "e\u0301" * 3000,
        "x" * 3000,
    ],
)
def test_what_is_too_long_is_cut_between_words_or_whole_characters(text: str) -> None:
    pieces = split_sentences(text)
    assert max(len(piece.encode()) for piece in pieces) <= 1.2 * PIECE
    assert sum(len(piece.encode()) < PIECE / 4 for piece in pieces) <= 1
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert not any(piece[0] == "\u0301" for piece in pieces)
    if " " in text:
        assert " ".join(pieces).split() == text.split()


def test_a_long_sentence_with_a_mark_stays_whole() -> None:
    long = "and so on, " * 100 + "it ends."
    assert split_sentences(long) == [long]
    assert len(split_sentences("and so on, " * 400 + "it ends.")) > 10
    heading = "A" * LONGEST_WITHOUT_MARK
    assert split_sentences(heading) == [heading]


@pytest.mark.parametrize("unit", ["!", "x!", "。", ".”", "字", "\u0301", " \n", "．3"])
def test_splitting_takes_linear_time(unit: str) -> None:
    """Trust C17: a line of 2 MB of ``!`` took the square of its length."""
    started = time.process_time()
    split_sentences(unit * 100_000)
    assert time.process_time() - started < 5


def test_splitting_loses_no_word() -> None:
    text = load_corpus().books[0].text
    assert " ".join(split_sentences(text)).split() == text.split()
