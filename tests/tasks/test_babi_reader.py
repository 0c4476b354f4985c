"""bAbI: the reader, what is said about calls that cannot be answered, and the package itself."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_bench.tasks.babi import (
    SUBTASKS,
    Statement,
    generate_questions,
    generate_story,
    read_stories,
    solve,
    template,
    wording,
)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_reader_gives_back_a_written_story(subtask: str, tmp_path: Path) -> None:
    story = generate_story(subtask, random.Random(8))
    ids = [n for n, line in enumerate(story.lines, 1) if isinstance(line, Statement)]
    path = tmp_path / "story.txt"
    written = [
        f"{n} {line.text}"
        if isinstance(line, Statement)
        else f"{n} {line.text}\t{line.answer}\t{' '.join(str(ids[i]) for i in line.supports)}"
        for n, line in enumerate(story.lines, 1)
    ]
    path.write_text("\n".join(written * 2) + "\n", encoding="utf-8")
    assert list(read_stories(path)) == list(story.questions()) * 2


@pytest.mark.parametrize(
    "line",
    ["Mary left.", "2", "", "x A.", "2 Who? \tMary", "2 Who? \tMary\t1\t1", "2 Who? \tMary\t7",
     "2 Who? \tMary\tone", "2 Who? \t\t1", "5 Mary left.", "²  Mary left.", b"2 caf\xe9."],
)  # fmt: skip
def test_reader_names_file_and_line_of_a_malformed_one(line: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"1 Mary went to the office.\n" + raw + b"\n3 Mary left.\n")
    with pytest.raises(ValueError, match=r"broken\.txt, line 2: ") as caught:
        list(read_stories(path))
    assert str(path) in str(caught.value)


def test_reader_wants_stories_to_start_at_1(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    for first in ("Mary went.", "2 Mary went to the office."):
        path.write_text(first + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match="line 1: "):
            list(read_stories(path))


@pytest.mark.parametrize("subtask", ["qa_5", "qa0", "qa21", "QA1", "qa1 "])
def test_unknown_subtask_is_named_with_the_nearest(subtask: str) -> None:
    for call in (
        lambda: generate_story(subtask, random.Random()),
        lambda: generate_questions(subtask, random.Random()),
        lambda: solve(subtask, (), "Where is Mary? "),
        lambda: wording(subtask),
    ):
        with pytest.raises(ValueError, match=f"^{subtask} is not one of") as caught:
            call()
        assert subtask != "qa_5" or "did you mean qa5?" in str(caught.value)


@pytest.mark.parametrize("questions", [0, -1])
def test_a_story_without_questions_is_refused(questions: int) -> None:
    with pytest.raises(ValueError, match="questions"):
        generate_story("qa1", random.Random(), questions=questions)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_story_is_decided_by_the_generator_state(subtask: str) -> None:
    one, again = (generate_story(subtask, random.Random(3)) for _ in range(2))
    assert one == again != generate_story(subtask, random.Random(4))


def test_template() -> None:
    assert template("Mary put down the milk there.") == "P put down the O there."
    assert template("Is Bill in the park? ") == "Is P in the L?"


def test_package_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, atlas_bench.tasks.babi; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr
