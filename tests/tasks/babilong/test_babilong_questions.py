"""Real bAbI questions: which file, which order, what is left out; one sentence for a mistake."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from babi_data import REAL, needs_real, real

from atlas_bench.tasks.babi import Statement, generate_story
from atlas_bench.tasks.babilong.questions import questions_file, real_questions
from atlas_bench.tasks.babilong.samples import evaluation_samples
from atlas_bench.tasks.babilong.task import BabilongSettings, BabilongTask
from atlas_bench.tasks.lengths import context_tokens
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer


def write_file(path: Path, subtask: str, seed: int) -> Path:
    lines, number_of = [], []
    for number, line in enumerate(generate_story(subtask, random.Random(seed)).lines, 1):
        if isinstance(line, Statement):
            number_of.append(number)
            lines.append(f"{number} {line.text}")
        else:
            supports = " ".join(str(number_of[i]) for i in line.supports)
            lines.append(f"{number} {line.text}\t{line.answer}\t{supports}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_test_part_is_taken_before_the_training_part(tmp_path: Path) -> None:
    names = (
        "qa1_train.txt",
        "qa1_single-fact_train.txt",
        "qa1_test.txt",
        "qa1_single-fact_test.txt",
    )
    write_file(tmp_path / "qa10_indefinite-knowledge_test.txt", "qa10", 0)
    for name in names:  # each is preferred to those before it
        written = write_file(tmp_path / name, "qa1", len(name))
        assert questions_file(tmp_path, "qa1") == written
    story = generate_story("qa1", random.Random(len(names[-1])))
    assert real_questions(tmp_path, "qa1") == tuple(story.questions())
    write_file(tmp_path / "qa1_other_test.txt", "qa1", 0)
    with pytest.raises(ValueError, match=r"^task\.questions_folder: .* has 2 files qa1_\*_test"):
        questions_file(tmp_path, "qa1")


def test_a_pipe_and_a_folder_are_no_files_of_questions(tmp_path: Path) -> None:
    """Trust C17: reading a pipe never ends."""
    os.mkfifo(tmp_path / "qa1_single_test.txt")
    (tmp_path / "qa1_train.txt").mkdir()
    with pytest.raises(ValueError, match=r"^task\.questions_folder: .* has no questions of qa1"):
        questions_file(tmp_path, "qa1")


@needs_real
@pytest.mark.parametrize(("subtask", "length"), [("qa1", "0k"), ("qa3", "1k"), ("qa5", "1k")])
def test_samples_ask_the_real_questions_in_order(
    subtask: str, length: str, tokenizer: Tokenizer, noise: NoisePool
) -> None:
    rows = context_tokens(length) // 8  # statements and the question
    wanted = [q for q in real(subtask) if length == "0k" or len(q.facts) + 1 <= rows]
    assert (len(wanted) < 1000) == (length != "0k")

    def samples(first: int, count: int) -> list[tuple[object, ...]]:
        found = evaluation_samples(
            subtask,
            length,
            count,
            3,
            noise=noise,
            tokenizer=tokenizer,
            questions=real_questions(REAL, subtask),
            first=first,
        )
        return [(s.facts, s.question, s.answer, s.context_ids.tobytes()) for s in found]

    found = samples(0, 2000)
    assert [sample[:3] for sample in found] == [(q.facts, q.question, q.answer) for q in wanted]
    assert samples(7, 3) == found[7:10]
    assert {len(sample[3]) for sample in found} == {4 * context_tokens(length)} or length == "0k"


@needs_real
def test_the_task_asks_them_and_says_so(tokenizer: Tokenizer) -> None:
    settings = BabilongSettings(
        subtasks=["qa17"], lengths=["1k"], questions="real", questions_folder=str(REAL)
    )
    settings.check(TextSettings())
    task = BabilongTask(settings, TextSettings(), seed=0, question_every=10)
    asked = list(task.questions(task.cells()[0], 12))
    assert [each.text for each in asked] == [q.question for q in real("qa17")[:12]]
    assert all(len(each.context_ids) == 700 for each in asked)
    assert task.tokenizer.fingerprint == tokenizer.fingerprint
    assert task.protocol()["questions"] == "real: qa17_train.txt"


def test_a_length_for_no_question_names_the_key(tokenizer: Tokenizer, noise: NoisePool) -> None:
    story = generate_story("qa1", random.Random(0))
    with pytest.raises(ValueError, match=r"task\.lengths: a context of 10 tokens .*shortest of 5"):
        evaluation_samples(
            "qa1",
            "310",
            1,
            0,
            noise=noise,
            tokenizer=tokenizer,
            questions=tuple(story.questions()),
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"qa1_train\.txt has no questions"),
        ("1 Mary went to the office.\n", "has no questions"),
        (
            "1 Mary went to the office.\n2 Where is Mary? \toffice\t7\n",
            "line 2: supporting IDs '7'",
        ),
        ("1 Mary went to the office.\n2 Where is Mary? \toffice\n", "line 2: .* is neither"),
        (
            "1 Bill is bored.\n2 Where will bill go? \tgarden,park\t1\n",
            "has the answer 'garden,park'",
        ),
        (
            "1 The box fits.\n2 Does the box fit? \tyes\t1\n",
            "has the answer 'yes', which is not one of qa1",
        ),
    ],
)
def test_a_damaged_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "qa1_train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^task\.questions_folder: .*{message}"):
        real_questions(tmp_path, "qa1")


def test_mistakes_in_the_settings_are_one_sentence(tmp_path: Path) -> None:
    write_file(tmp_path / "qa1_train.txt", "qa1", 0)
    for changes, message in (
        ({"questions": "reel"}, r"task\.questions=reel is not one of .*did you mean real\?"),
        ({"questions": "real"}, r"task\.questions=real needs task\.questions_folder=PATH"),
        ({"questions_folder": "x"}, r"only for task\.questions=real"),
        ({"questions": "real", "source": "hub"}, r"task\.source=hub has its own"),
        ({"questions": "real", "questions_folder": "no/such"}, "there is no folder no/such"),
        (
            {"questions": "real", "questions_folder": str(tmp_path), "subtasks": ["qa1", "qa2"]},
            r"has no questions of qa2, that is no qa2_\*_test\.txt",
        ),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            BabilongSettings(**changes).check(TextSettings())
        assert "\n" not in str(caught.value)
