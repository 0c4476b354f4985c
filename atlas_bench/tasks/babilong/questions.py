"""The real bAbI questions, read from a folder of the v1.2 files in the order of the file.

The published BABILong sets have the questions of the test files in this order, one sample for each.
Their loader drops questions whose story is too long for the context, and the last question.
The files are not part of this package (bAbI v1.2, Weston et al. 2015, CC BY 3.0).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from atlas_bench.tasks.babi import LABELS, Question, read_stories

QUESTIONS = ("generated", "real")
# As released ("qa1_single-supporting-fact_test.txt") and shortened. The first that exists is used,
# so training questions are used only if there are no test questions.
_NAMES = ("{}_*_test.txt", "{}_test.txt", "{}_*_train.txt", "{}_train.txt")


def questions_file(folder: str | Path, subtask: str) -> Path:
    """The file in ``folder`` with a subtask's questions, the test part if it exists.

    Raises ValueError naming ``task.questions_folder`` when there is none, or more than one.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(f"task.questions_folder: there is no folder {path}")
    for name in (form.format(subtask) for form in _NAMES):
        found = sorted(file for file in path.glob(name) if file.is_file())  # no folder, no pipe
        if len(found) > 1:
            raise ValueError(
                f"task.questions_folder: {path} has {len(found)} files {name}; keep one of them"
            )
        if found:
            return found[0]
    names = " or ".join(form.format(subtask) for form in _NAMES)
    raise ValueError(
        f"task.questions_folder: {path} has no questions of {subtask}, that is no {names}"
    )


@lru_cache(maxsize=20)
def real_questions(folder: str | Path, subtask: str) -> tuple[Question, ...]:
    """All questions of a subtask, each with the statements before it.

    Raises ValueError naming ``task.questions_folder`` and the file when it is missing, damaged or
    another subtask's.
    """
    path = questions_file(folder, subtask)
    try:
        questions = tuple(read_stories(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"task.questions_folder: {error}") from error
    if not questions:
        raise ValueError(f"task.questions_folder: {path} has no questions")
    labels = set(LABELS[subtask])
    for question in questions:
        answer = question.answer.lower()
        if answer not in labels and not labels.issuperset(answer.split(",")):
            raise ValueError(
                f"task.questions_folder: {path} has the answer {question.answer!r}, which is "
                f"not one of {subtask}; use the bAbI v1.2 file"
            )
    return questions
