"""Recall: the window around the answer, the prompt, the metric."""

from __future__ import annotations

import pytest

from atlas_bench.tasks.suites.recall import contains, process_results, prompt, window


class Words:
    """A token a word, so that lengths can be counted by hand."""

    def encode(self, text: str) -> list[str]:
        return text.split()

    def decode(self, ids: list[str]) -> str:
        return " ".join(ids)


TEXT = " ".join(f"w{n}" for n in range(100))


@pytest.mark.parametrize(
    ("answers", "tokens", "first", "last"),
    [
        (["W50 w51"], 10, 45, 54),  # half before the answer, whatever its case
        (["w50", "w20"], 10, 45, 54),  # the first answer counts, not the first place
        (["nowhere", "w20"], 10, 15, 24),
        (["nowhere"], 10, 0, 9),
        (["", "w20"], 10, 15, 24),
        (["w2"], 10, 0, 9),  # its start is the text's
        (["w98"], 10, 93, 99),  # its end is the text's: shorter, as published
        (["w50"], 7, 47, 53),
        (["w50"], 100, 0, 99),
    ],
)
def test_the_window_stands_around_the_answer(
    answers: list[str], tokens: int, first: int, last: int
) -> None:
    expected = " ".join(f"w{n}" for n in range(first, last + 1))
    assert window(f" {TEXT}\n", answers, Words(), tokens) == expected


def test_a_prompt_is_the_context_and_once_its_question() -> None:
    document = {
        "context": " [DOC] [TLE] Rivers [PAR] The Tarn is long. The longest is the. THE longest is",
        "question": " The longest is ",
    }
    assert prompt(document) == "Rivers  The Tarn is long. The longest is the. The longest is"
    assert prompt({"context": "A. B...", "question": "C"}) == "A. B. C"
    assert prompt({"context": "A. it it. it.it.", "question": "it."}) == "A. it it. it."
    assert prompt({"context": "A.", "question": ""}) == "A. "


def test_an_answer_counts_anywhere_in_any_case() -> None:
    assert contains("it was EDDA storm, they say", ["Olm", "Edda Storm"])
    assert not contains("it was Edda", ["Edda Storm"])
    assert process_results({"answers": ["64", "sixty-four"]}, [" Sixty-Four."]) == {"contains": 1.0}
    assert process_results({"answers": ["64"]}, [" six"]) == {"contains": 0.0}
