"""RULER against lm-eval's own code: the same scores, and prompts of the same shape."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from atlas_bench.tasks.ruler.counting import CWE_QUESTION
from atlas_bench.tasks.ruler.metric import clean, string_match_all
from atlas_bench.tasks.ruler.needles import NIAH
from atlas_bench.tasks.ruler.task import NEW_TOKENS, RulerTask
from atlas_bench.tasks.task import Question
from atlas_bench.text.sentences import split_sentences

LENGTH = 2048
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.")
PROSE = " ".join(f"This is sentence {number} of the essay." for number in range(400))


def lm_eval_module(name: str) -> ModuleType:
    """One file of lm-eval's RULER, without the seconds that importing all of lm-eval takes."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        pytest.skip("lm-eval is not installed")
    path = Path(spec.submodule_search_locations[0], "tasks", "ruler", f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"lm_eval_ruler_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores_are_those_of_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=None))
    theirs = lm_eval_module("common_utils")
    rng = random.Random(0)
    letters = "abAB1\n\t\x00 -"
    for _ in range(300):
        output = "".join(rng.choices(letters, k=rng.randint(0, 12)))
        references = ["".join(rng.choices("abAB1-", k=rng.randint(1, 3))) for _ in range(3)]
        references = references[: rng.randint(1, 3)]
        (cleaned,) = theirs.postprocess_pred([output])
        assert clean(output) == cleaned
        ours = string_match_all(references, output)
        assert ours == theirs.string_match_all([cleaned], [references])
        # its name is RULER's, which asks for any reference; of one answer it gives the share
        assert ours == theirs.string_match_part([cleaned], [references])


# shapes ---------------------------------------------------------------------------------------


@pytest.fixture
def tokenize(ruler: RulerTask) -> Callable[[str], SimpleNamespace]:
    """Our tokenizer, called as those of transformers are."""
    return lambda text: SimpleNamespace(input_ids=ruler.tokenizer.encode(text))


def ours(ruler: RulerTask, subtask: str) -> tuple[Question, str]:
    asked = ruler._maker(subtask, LENGTH)((42, subtask, LENGTH, 0), 0)
    text = ruler.tokenizer.decode(np.append(asked.context_ids, asked.question_ids))
    return asked, text


def theirs_whole(sample: dict[str, Any]) -> str:
    return f"{sample['input'].strip()} {sample['gen_prefix']}"


@pytest.mark.slow  # lm-eval sorts six million keys when its module is read
def test_needle_prompts_have_the_shape_of_lm_eval(
    ruler: RulerTask, tokenize: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    nltk = pytest.importorskip("nltk", reason="lm-eval's RULER needs nltk, lm_eval[ruler]")
    pytest.importorskip("wonderwords", reason="lm-eval's RULER needs wonderwords")
    monkeypatch.setattr(nltk, "download", lambda name: False)
    module = lm_eval_module("prepare_niah")
    module.cached_sent_tokenize = lambda text: split_sentences(text)  # punkt is not in the package
    path = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0])
    template = re.search(
        r'TEMPLATE = """(.+?)"""', (path / "tasks/ruler/niah_utils.py").read_text(), re.DOTALL
    )[1].replace("\\n", "\n")
    for subtask, task in NIAH.items():
        random.seed(0)
        hay = PROSE.split(" ") if task.haystack == "essay" else module.get_haystack(task.haystack)
        (sample,) = module.generate_samples(
            hay,
            tokenize,
            max_seq_length=LENGTH,
            type_haystack=task.haystack,
            type_needle_k=task.key,
            type_needle_v=task.value,
            template=template,
            num_samples=1,
            num_needle_k=task.keys,
            num_needle_v=task.values,
            num_needle_q=task.queries,
        )
        asked, text = ours(ruler, subtask)
        shapes, needles = [], []
        for whole, references in (
            (text, asked.references),
            (theirs_whole(sample), sample["outputs"]),
        ):
            found = NEEDLE.findall(whole)
            keys = {key for _, key, value in found if value in references}
            assert len(references) == task.values * task.queries
            for number, key in enumerate(sorted(keys, key=whole.rindex)):
                whole = whole.replace(key, f"KEY{number}")
            lines = whole.split("\n")
            # the question and the answer's beginning are one line here and there
            shapes.append([lines[0], re.sub(r"KEY\d", "KEY", lines[-1])])
            needles.append((len(found), {kind for kind, _, _ in found}))
        assert shapes[0] == shapes[1]
        assert needles[0][1] == needles[1][1]
        if task.haystack != "needle":
            assert needles[0][0] == needles[1][0]
        assert NEW_TOKENS[subtask] == sample["length"] - len(
            ruler.tokenizer.encode(sample["input"])
        )
        assert sample["length"] <= LENGTH
        # theirs is found in steps, and leaves more room
        assert len(ruler.tokenizer.encode(text)) >= len(ruler.tokenizer.encode(sample["input"]))


@pytest.mark.slow
def test_other_prompts_have_the_shape_of_lm_eval(ruler: RulerTask, tokenize: Callable) -> None:
    for package in ("wonderwords", "scipy"):
        pytest.importorskip(package, reason=f"lm-eval's RULER needs {package}, lm_eval[ruler]")
    random.seed(0)
    vt = lm_eval_module("vt_utils")
    example = vt.sys_vartrack_w_noise_random(
        tokenizer=tokenize, num_samples=1, max_seq_length=500, incremental=5
    )[0]
    (sample,) = vt.sys_vartrack_w_noise_random(
        tokenizer=tokenize, num_samples=1, max_seq_length=LENGTH, icl_example=example
    )
    asked, text = ours(ruler, "ruler_vt")
    theirs = theirs_whole(sample)
    for pattern in (r"^.*Memorize and track.*$", r"Question:.*?they are:"):
        found = [
            re.findall(pattern, re.sub(r"\d+", "0", each), re.MULTILINE) for each in (text, theirs)
        ]
        assert found[0] == found[1]
        assert len(found[0]) == 2  # of the example too
    assert text.count("VAR") == theirs.count("VAR")
    assert len(asked.references) == len(sample["outputs"]) == 5
    assert [len(name) for name in asked.references] == [len(name) for name in sample["outputs"]]

    cwe = lm_eval_module("cwe_utils")
    (sample,) = cwe.sys_word_pair_random(1, LENGTH, tokenize)
    asked, text = ours(ruler, "ruler_cwe")
    # lm-eval makes a solved example and leaves it out of the prompt; RULER puts it in front
    example, own = (text[: text.rindex("Below is")], text[text.rindex("Below is") :])
    for mine, other in ((own, theirs_whole(sample)), (example, sample["input_example"])):
        assert mine.split("\n")[0] == other.split("\n")[0]
        assert re.findall(r"Question:.*list are:", mine) == re.findall(
            r"Question:.*list are:", other.replace("list?\n", "list? ")
        )
        listed = [
            re.findall(r"\d+\. ([\w-]+)", each.split(CWE_QUESTION)[0]) for each in (mine, other)
        ]
        counts = [sorted({words.count(word) for word in words}) for words in listed]
        assert counts[0] == counts[1]
    assert len(asked.references) == len(sample["outputs"]) == 10

    fwe = lm_eval_module("fwe_utils")
    (sample,) = fwe.sys_kwext(tokenize, LENGTH, num_samples=1)
    asked, text = ours(ruler, "ruler_fwe")
    for pattern in (r"^Read.*?words\. ", r"\nQuestion:.*$"):
        assert re.findall(pattern, text, re.DOTALL) == re.findall(
            pattern, theirs_whole(sample), re.DOTALL
        )
    for each, references in ((text, asked.references), (sample["input"], sample["outputs"])):
        words = each.split("coded words. ")[1].split("\nQuestion")[0].split()
        assert len(references) == 3
        ranks = sorted(set(words), key=words.count, reverse=True)
        assert ranks[:4] == ["...", *references]
        assert words.count(ranks[1]) == pytest.approx(words.count("...") / 4, abs=1)
