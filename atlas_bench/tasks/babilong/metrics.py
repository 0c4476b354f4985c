"""BABILong's metrics: the published one with its quirks, and a strict one."""

from __future__ import annotations

from atlas_bench.tasks.babi import LABELS


def published_metric(subtask: str, *, target: str, output: str, question: str) -> bool:
    """Whether the published metric counts ``output`` as correct (babilong/metrics.py).

    The lower-cased output is cut at the first full stop and at the prompt's own tags. Of the
    subtask's labels, those that are substrings of the output but not of the question must be the
    target and nothing else; for a comma list (longer than a qa19 path), its parts in any order.

    Kept as published: "one" is a substring of "none", so qa7's answer "none" is never correct;
    "I do not know" contains "no"; "e, n" is not "e,n".

    Raises ValueError for an unknown subtask.
    """
    labels = {label.lower() for label in _labels(subtask)}
    target, question = target.lower(), question.lower()
    answered = _first_sentence(output.lower())
    mentioned = {label for label in labels if label in answered and label not in question}
    if "," in target and len(target) > 3:
        parts = target.split(",")
        return mentioned.issuperset(parts) and len(mentioned) == len(parts)
    return target in mentioned and len(mentioned) == 1


def exact_match(target: str, output: str) -> bool:
    """Whether the whole output is the answer, ignoring case, outer white space and white space at
    commas. Lists are compared in order. The paper scores its fine-tuned models like this.
    """
    return _normal(target) == _normal(output)


def _normal(text: str) -> list[str]:
    return [part.strip() for part in text.strip().lower().split(",")]


def _first_sentence(output: str) -> str:
    # The published code also cuts at "Question", which never occurs after lower-casing.
    for mark in (".", "<context>", "<example>"):
        output = output.split(mark, 1)[0]
    return output


def _labels(subtask: str) -> tuple[str, ...]:
    if subtask not in LABELS:
        raise ValueError(f"subtask: {subtask!r} is unknown; choose from {', '.join(LABELS)}")
    return LABELS[subtask]
