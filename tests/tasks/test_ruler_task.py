"""RULER as a task: names, protocol, metrics, training streams and the published sets."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from atlas_bench.tasks.ruler.metric import string_match_all, string_match_part
from atlas_bench.tasks.ruler.needles import NIAH, REPEATED
from atlas_bench.tasks.ruler.task import (
    NEW_TOKENS,
    SUBTASKS,
    RulerSettings,
    RulerTask,
)
from atlas_bench.tasks.ruler.words import KEYS
from atlas_bench.tasks.stages import NoiseStage
from atlas_bench.tasks.task import QUESTIONS
from atlas_bench.text.settings import TextSettings

SINGLES = ["niah_single_1", "niah_single_2", "niah_single_3"]
NEEDLE = re.compile(r"One of the special magic \w+ for (\S+) is: (\S+)\.")


def with_settings(task: RulerTask, **changes: object) -> RulerTask:
    """The same task with other settings, its tokenizer and texts kept."""
    other = RulerTask.__new__(RulerTask)
    other.__dict__.update(task.__dict__)
    other.__dict__.pop("_streams", None)
    other._loaded_essays, other._loaded_problems = dict(task._loaded_essays), {}
    other.settings = replace(task.settings, **changes)
    other.max_new_tokens = max(NEW_TOKENS[subtask] for subtask in other.settings.subtasks)
    return other


def stage(length: int, noise: float) -> NoiseStage:
    return NoiseStage(length=length, noise=noise)


# names, protocol, judging ---------------------------------------------------------------------


def test_cells_say_what_is_asked(ruler: RulerTask) -> None:
    assert ruler.kind == QUESTIONS
    cells = ruler.cells()
    assert len(cells) == 13 * 3
    assert [cell.tokens for cell in cells[:3]] == [1024, 2048, 4096]
    assert {cell.subtask for cell in cells[-6:]} == {"own_qa_1", "own_qa_2"}
    hub = with_settings(ruler, source="hub")
    assert {cell.subtask for cell in hub.cells()[-6:]} == {"ruler_qa_squad", "ruler_qa_hotpot"}
    paper = with_settings(ruler, names="paper", subtasks=SINGLES)
    assert [cell.subtask for cell in paper.cells()[::3]] == ["S-NIAH-PK", "S-NIAH-N", "S-NIAH-W"]
    (asked,) = paper.questions(paper.cells()[6], 1)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", asked.references[0])


def test_a_pretrained_model_is_asked_without_the_answer_token(ruler: RulerTask) -> None:
    text = with_settings(ruler, trained_on="text")
    cell = ruler.cells()[0]
    (taught,), (plain,) = ruler.questions(cell, 1), text.questions(cell, 1)
    assert taught.question_ids[-1] == ruler.tokenizer.answer_id
    assert np.array_equal(taught.question_ids[:-1], plain.question_ids)
    assert ruler.protocol()["trained_on"].startswith("laptop")
    assert text.protocol()["trained_on"].startswith("paper")
    assert "held_out" not in text.protocol()
    with pytest.raises(ValueError, match=r"task\.trained_on=text is for mode=eval"):
        text.batch(stage(256, 0.0), 0, 1)


def test_protocol_never_calls_our_documents_squad(ruler: RulerTask) -> None:
    told = ruler.protocol()
    assert "neither SQuAD nor HotpotQA" in told["question_answering"]
    assert told["new_tokens"]["own_qa_1"] == 32
    assert told["cwe_repeats"] == {"1k": [6, 1], "2k": [6, 1], "4k": [30, 3]}
    assert told["essays"] == "embedded"
    assert "ruler_vt" not in told["trains_on"]
    assert json.dumps(told)
    one = with_settings(ruler, subtasks=["niah_single_1"]).protocol()
    assert not {"essays", "cwe_repeats", "question_answering"} & set(one)


@pytest.mark.parametrize(
    ("references", "output", "all_", "part"),
    [
        (("1234567",), "It is 1234567.", 1, 1),
        (("1234567",), "123 4567", 0, 0),
        (("12", "34", "56", "78"), "12, 34 and 78", 0.75, 1),
        (("Amber",), "aMBER\x00", 1, 1),
        (("a b",), "a\tb", 0, 0),
        (("a\nb",), "a\tb", 1, 1),
        (("x", "y"), "", 0, 0),
    ],
)
def test_string_matches(references: tuple[str, ...], output: str, all_: float, part: float) -> None:
    assert string_match_all(references, output) == all_
    assert string_match_part(references, output) == part


def test_only_the_tokens_a_subtask_allows_are_judged(ruler: RulerTask) -> None:
    cells = {cell.subtask: cell for cell in ruler.cells()}
    for subtask, shown in (("ruler_vt", "ruler_vt"), ("ruler_qa_1", "own_qa_1")):
        (asked,) = ruler.questions(cells[shown], 1)
        answer = " " + " ".join(asked.references)
        room = NEW_TOKENS[subtask] - len(ruler.tokenizer.encode(answer))
        early, late = (" the" * number + answer for number in (room, room + 40))
        assert ruler.judge(cells[shown], asked, early)["string_match_all"] == 1
        assert ruler.judge(cells[shown], asked, late)["string_match_all"] < 1
        judged = ruler.judge(cells[shown], asked, early)
        assert ("string_match_part" in judged) == (subtask == "ruler_qa_1")
    assert ruler.max_new_tokens == 128


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subtasks": ["niah_single_4"]}, r"task\.subtasks=niah_single_4 .*mean niah_single_"),
        ({"subtasks": []}, r"task\.subtasks is empty"),
        ({"lengths": ["0k"]}, r"task\.lengths: 0k is too short"),
        ({"lengths": ["511"]}, r"task\.lengths: 511 is too short; .*512"),
        ({"lengths": ["many"]}, r"task\.lengths: 'many'"),
        ({"samples": 0}, r"task\.samples=0"),
        ({"source": "web"}, r"task\.source=web"),
        ({"essays": "graham"}, r"task\.essays=graham .*mean paul_graham"),
        ({"trained_on": "txt"}, r"task\.trained_on=txt .*mean text"),
        ({"names": "papers"}, r"task\.names=papers .*mean paper"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], words: str) -> None:
    RulerSettings(lengths=["512", "1M", "10M"]).check(TextSettings())
    with pytest.raises(ValueError, match=words):
        RulerSettings(**change).check(TextSettings())


# training -------------------------------------------------------------------------------------


def read_stream(task: RulerTask, row: np.ndarray) -> str:
    marks = {task.tokenizer.answer_id: "<answer>", task.tokenizer.end_id: "<end>"}
    parts, run = [], []
    for token in row.tolist():
        if token in marks:
            parts += [task.tokenizer.decode(run), marks[token]]
            run = []
        else:
            run.append(token)
    return "".join([*parts, task.tokenizer.decode(run)])


@pytest.mark.parametrize("subtask", NIAH)
@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_streams_ask_what_was_told(subtask: str, noise: float, ruler: RulerTask) -> None:
    task = with_settings(ruler, subtasks=[subtask])
    batch = task.batch(stage(1024, noise), 0, 3)
    assert batch.inputs.shape == batch.targets.shape == batch.answer_mask.shape == (3, 1024)
    assert batch.inputs.dtype == np.int32
    assert np.array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    for row in range(3):
        tokens = np.append(batch.inputs[row], batch.targets[row, -1])
        told: dict[str, list[str]] = {}
        before, *rest = read_stream(task, tokens).split("<answer>")
        assert len(rest) >= 1
        for chunk in rest:
            for key, value in NEEDLE.findall(before):
                told.setdefault(key, []).append(value)
            question = before[before.rindex("\nWhat ") :]
            asked = re.findall(r"special magic \w+ for (.+?) mentioned in the provided", question)
            keys = re.split(r", and |, ", asked[0])
            assert asked == [asked[0]] * 2
            assert len(keys) == NIAH[subtask].queries
            answer, _, before = chunk.partition("<end>")
            assert answer == " " + ", ".join(value for key in keys for value in told[key])
        # the mask holds exactly the answers and their end tokens
        inside, wanted = False, []
        for token in tokens[:-1]:
            inside = (inside and token != task.tokenizer.end_id) or (
                token == task.tokenizer.answer_id
            )
            wanted.append(inside)
        assert batch.answer_mask[row].tolist() == wanted


def test_streams_never_show_what_evaluation_asks(ruler: RulerTask) -> None:
    batch = ruler.batch(stage(1024, 0.3), 0, 24)
    keys, values = set(), set()
    for row in batch.inputs:
        for key, value in NEEDLE.findall(read_stream(ruler, row)):
            keys.add(key)
            values.add(value)
    assert len(keys) > 100
    assert not keys & set(KEYS["test"])
    numbers = [int(value.replace("-", ""), 10 if value.isdigit() else 16) for value in values]
    assert all(number % 7 for number in numbers)


@pytest.mark.parametrize("subtask", ["niah_single_1", "niah_single_2", "niah_multikey_2"])
def test_streams_hold_the_wished_noise_and_questions(subtask: str, ruler: RulerTask) -> None:
    task = with_settings(ruler, subtasks=[subtask])
    ends = {}
    for noise in (0.0, 0.5, 0.9):
        batch = task.batch(stage(2048, noise), 0, 4)
        ends[noise] = (batch.targets == task.tokenizer.end_id).sum(1).mean()
    assert ends[0.0] > 20
    assert ends[0.5] == pytest.approx(ends[0.0] / 2, rel=0.2)
    assert 2 <= ends[0.9] <= 6
    rare = with_settings(task)
    rare.question_every = 512
    assert (rare.batch(stage(2048, 0.0), 0, 4).targets == task.tokenizer.end_id).sum(1).max() <= 4
    text = read_stream(task, task.batch(stage(2048, 0.9), 0, 1).inputs[0])
    if subtask == "niah_single_1":
        assert text.count(REPEATED) > 40


def test_streams_depend_on_seed_and_number_alone(ruler: RulerTask) -> None:
    straight = ruler.batch(stage(600, 0.5), 0, 5)
    again = with_settings(ruler).batch(stage(600, 0.5), 3, 2)
    assert np.array_equal(straight.inputs[3:], again.inputs)
    assert len({row.tobytes() for row in straight.inputs}) == 5
    other = with_settings(ruler)
    other.seed = 1
    assert not np.array_equal(other.batch(stage(600, 0.5), 0, 5).inputs, straight.inputs)


def test_short_streams_are_of_tasks_that_fit(ruler: RulerTask) -> None:
    assert ruler.batch(stage(128, 0.0), 0, 30).answer_mask.any(1).all()
    assert ruler.batch(stage(128, 0.0), 0, 1).inputs.shape == (1, 128)
    longer = with_settings(ruler, subtasks=["niah_multiquery"]).batch(stage(128, 0.0), 0, 2)
    assert longer.inputs.shape == (2, 256)
    assert longer.answer_mask.any(1).all()
    with pytest.raises(ValueError, match=r"task\.subtasks: only niah_single_1, .*mode=eval"):
        with_settings(ruler, subtasks=["ruler_vt"]).batch(stage(1024, 0.0), 0, 1)


# from the hub -----------------------------------------------------------------------------------

SQUAD_ROWS = [
    {"title": t, "context": f"{t} text {n}.", "question": f"{t} {n}?", "answers": {"text": a}}
    for t, n, a in (
        ("Alps", 1, ["one", "1"]),
        ("Alps", 2, []),
        ("Alps", 3, ["three"]),
        *(("Other", n, []) for n in range(200)),
        ("Bees", 4, ["four"]),
    )
]


def test_squad_asks_answerable_questions_among_the_articles_own(
    ruler: RulerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = SimpleNamespace(load_dataset=lambda name, split: SQUAD_ROWS)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    task = with_settings(ruler, source="hub", subtasks=["ruler_qa_1"])
    cell = task.cells()[0]
    asked = list(task.questions(cell, 10))
    assert [each.references for each in asked] == [("one", "1"), ("three",), ("four",)]
    context = task.tokenizer.decode(asked[0].context_ids)
    for text in ("Alps text 1.", "Alps text 2.", "Alps text 3."):
        assert text in context
    assert "Document 20:\nOther" in context
    assert task.judge(cell, asked[0], "1") == {"string_match_all": 0.5, "string_match_part": 1.0}


def test_hotpot_keeps_all_paragraphs_of_its_question(
    ruler: RulerTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [
        {
            "question": f"q{n}?",
            "answer": f"a{n}",
            "context": [[f"T{n}", ["x. ", "y."]], ["S", [""]]],
        }
        for n in range(3)
    ]
    (tmp_path / "hotpot.json").write_text(json.dumps(rows))
    hub = SimpleNamespace(hf_hub_download=lambda *names, **options: tmp_path / "hotpot.json")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    task = with_settings(ruler, source="hub", subtasks=["ruler_qa_2"])
    second = list(task.questions(task.cells()[0], 2))[1]
    context = task.tokenizer.decode(second.context_ids)
    assert "T1\nx. y." in context
    assert context.count("Document") == 4  # all there are
    assert second.references == ("a1",)


def test_essays_come_from_the_hub_only_on_request(
    ruler: RulerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, split: str) -> dict[str, list[str]]:
        return {"text": ["Startups are odd. " * 50, "Write essays!"]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    task = with_settings(ruler, essays="paul_graham", subtasks=["niah_single_2"])
    task._loaded_essays.clear()
    (asked,) = task.questions(task.cells()[0], 1)
    assert "Startups are odd. Write essays! Startups" in task.tokenizer.decode(asked.context_ids)
    assert task.protocol()["essays"] == "Paul Graham's essays from the hub"
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace())
    task._loaded_essays.clear()
    with pytest.raises(ValueError, match=r"task\.essays: could not read baber.*AttributeError"):
        next(task.questions(task.cells()[0], 1))


def test_every_subtask_has_its_new_tokens() -> None:
    assert len(SUBTASKS) == 13
    assert [NEW_TOKENS[name] for name in ("ruler_vt", "ruler_cwe", "ruler_fwe")] == [30, 120, 50]
