"""BABILong scoring: parity with recorded accuracies, and the published quirks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from atlas_bench.tasks.babilong.metrics import exact_match, published_metric

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
PREDICTIONS = SHARED / "babilong_predictions"


def _expected_accuracies() -> list[tuple[str, float]]:
    if not PREDICTIONS.is_dir():
        return []
    with open(PREDICTIONS / "expected.csv", newline="", encoding="utf-8") as file:
        return [
            (row["task_length"], float(row["accuracy_percent"])) for row in csv.DictReader(file)
        ]


@pytest.mark.skipif(not PREDICTIONS.is_dir(), reason=f"no recorded predictions at {PREDICTIONS}")
@pytest.mark.parametrize(("name", "expected"), _expected_accuracies())
def test_published_metric_on_recorded_predictions(name: str, expected: float) -> None:
    (path,) = PREDICTIONS.glob(f"*/{name}.csv")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    subtask = name.split("_")[0]
    correct = sum(
        published_metric(
            subtask,
            target=row["target"],
            output=row["output"] or "",
            question=row["question"] or "",
        )
        for row in rows
    )
    assert round(100 * correct / len(rows), 2) == expected


@pytest.mark.parametrize(
    ("subtask", "target", "output", "question", "correct"),
    [
        ("qa1", "office", "Mary is in the OFFICE. Not the garden", "Where is Mary? ", True),
        ("qa1", "office", "office or garden", "Where is Mary? ", False),
        ("qa1", "office", "", "Where is Mary? ", False),
        ("qa1", "office", "office <context> garden", "Where is Mary? ", True),
        ("qa1", "office", "office <example> garden", "Where is Mary? ", True),
        ("qa3", "office", "in the office before the garden", "before the garden? ", True),
        ("qa4", "office", "kitchen", "What is north of the office?", False),
        ("qa7", "none", "none", "How many objects is Mary carrying? ", False),
        ("qa7", "one", "none", "How many objects is Mary carrying? ", False),
        ("qa7", "one", "one", "How many objects is Mary carrying? ", True),
        ("qa6", "no", "I do not know", "Is Mary in the office? ", True),
        ("qa8", "apple,milk", "milk and apple", "What is Mary carrying? ", True),
        ("qa8", "apple,milk", "milk, apple, football", "What is Mary carrying? ", False),
        ("qa8", "apple,milk", "milk", "What is Mary carrying? ", False),
        ("qa8", "nothing", "nothing", "What is Mary carrying? ", True),
        ("qa19", "e,n", "e,n", "How do you go?", True),
        ("qa19", "e,n", "e, n", "How do you go?", False),
        ("qa5", "Bill", "bill gave it", "Who gave the milk? ", True),
    ],
)
def test_published_metric_quirks(
    subtask: str, target: str, output: str, question: str, correct: bool
) -> None:
    found = published_metric(subtask, target=target, output=output, question=question)
    assert found is correct


def test_published_metric_refuses_an_unknown_subtask() -> None:
    with pytest.raises(ValueError, match="subtask: 'qa21'"):
        published_metric("qa21", target="a", output="a", question="")


def test_exact_match_is_strict_and_ordered() -> None:
    assert exact_match("office", " Office\n")
    assert exact_match("none", "none")
    assert exact_match("apple,milk", "apple, milk")
    assert not exact_match("apple,milk", "milk,apple")
    assert not exact_match("office", "the office")
    assert not exact_match("office", "office.")
