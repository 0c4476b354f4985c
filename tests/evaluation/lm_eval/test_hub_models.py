"""Pretrained models: a tiny random one of transformers, saved to disk, through the same runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_llama import POSITIONS, save_tiny_llama

from atlas_bench.cli.compose import compose_settings
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.memory_use import DoesNotFit
from atlas_bench.evaluation.streaming import Prompt
from atlas_bench.models.settings import HubSettings, ModelSettings
from atlas_bench.runs.execute import execute
from atlas_bench.tasks.babilong.prompted import PromptedBabilong
from atlas_bench.tasks.babilong.prompts import render_prompt
from atlas_bench.tasks.babilong.task import BabilongSettings, BabilongTask
from atlas_bench.text.settings import TextSettings

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hub") / "tiny-llama"
    save_tiny_llama(folder)
    return str(folder)


def hub_model(name: str, **options):
    from atlas_bench.evaluation.lm_eval.hub_models import HubModel

    settings = ModelSettings(name=name, mixers=[], hub=HubSettings(**options))
    return HubModel(settings, torch.device("cpu"))


def run(pretrained: str, folder: Path, *overrides: str) -> dict:
    settings = compose_settings([
        "model=hf", f"model.name='{pretrained}'", "mode=eval", "logger=none",
        "hardware.device=cpu", *overrides,
    ])  # fmt: skip
    return json.loads(execute(settings, folder).read_text())


def test_answers_are_the_models_own(pretrained: str) -> None:
    model = hub_model(pretrained, batch_size=2)
    drawn = np.random.default_rng(0)
    lengths = [12, 5, 12, 12]
    prompts = [
        Prompt(drawn.integers(3, 900, n, dtype=np.int32), np.array([7, 8], np.int32), i)
        for i, n in enumerate(lengths)
    ]
    found = model.generate(prompts, max_new=4, batch_tokens=10**6)
    begin = model.tokenizer.bos_token_id
    assert found.tokens_read == sum(lengths) + 3 * len(lengths)
    for prompt, answer in zip(prompts, found.tokens, strict=True):
        ids = [begin, *prompt.context.tolist(), 7, 8]
        for token in answer:
            with torch.no_grad():
                logits = model.model(torch.tensor([ids])).logits
            assert int(logits[0, -1].argmax()) == token
            ids.append(token)
    stop = found.tokens[0][2]
    model.model.generation_config.eos_token_id = stop
    (cut,) = model.generate(prompts[:1], max_new=4, batch_tokens=1).tokens
    assert cut == found.tokens[0][: found.tokens[0].index(stop)]


def test_prompts_that_it_cannot_read_are_refused(pretrained: str) -> None:
    model = hub_model(pretrained)
    long = Prompt(np.full(POSITIONS - 9, 5, np.int32), np.array([5], np.int32), 0)
    with pytest.raises(DoesNotFit, match="1,513 tokens are more than the 1,500"):
        model.generate([long], max_new=20, batch_tokens=1)
    unknown = Prompt(np.array([5, 100_000], np.int32), np.array([5], np.int32), 0)
    with pytest.raises(ValueError, match="tokens that .*tiny-llama does not know"):
        model.generate([unknown], max_new=1, batch_tokens=1)


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.name=.*nothing: there is no such folder$"):
        run(str(tmp_path / "nothing"), tmp_path / "run")


def test_babilong_is_asked_with_examples_in_the_models_own_tokens(
    pretrained: str, tmp_path: Path
) -> None:
    record = run(pretrained, tmp_path, "task.lengths=[0k,1k,2k]", "task.samples=2")
    assert record["scale"] == "pretrained"
    assert record["tokenizer"]["name"].endswith("tiny-llama")
    assert record["protocol"]["prompt"] == {
        "instruction": True, "examples": True, "post_prompt": True, "new_tokens": 20,
    }  # fmt: skip
    assert {score["length_name"] for score in record["scores"]} == {"0k", "1k"}
    (note,) = record["notes"]
    assert note.startswith("qa1 2k: ")
    assert "positions for" in note
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    tokens = {json.loads(line)["length"]: json.loads(line)["context_tokens"] for line in lines}
    assert tokens["1k"] > 700 + 50  # the context and what is said before it


def test_a_prompt_is_the_rendered_text(pretrained: str) -> None:
    plain = BabilongTask(BabilongSettings(), TextSettings(), seed=0, question_every=32)
    parts = {"instruction": True, "examples": False, "post_prompt": True}
    cell = plain.cells()[0]
    (asked,) = PromptedBabilong(plain, parts).questions(cell, 1)
    (bare,) = plain.questions(cell, 1)
    decode = plain.tokenizer.decode
    text = decode([*asked.context_ids, *asked.question_ids])
    wanted = render_prompt("qa1", decode(bare.context_ids), bare.text, **parts)
    assert text.replace("<context>\n ", "<context>\n") == wanted
    assert plain.tokenizer.answer_id not in asked.question_ids
    assert asked.references == bare.references


def test_ruler_is_asked_in_words(pretrained: str, tmp_path: Path) -> None:
    asked = ["task=ruler", "task.subtasks=[niah_single_1]", "task.lengths=[512]", "task.samples=2"]
    with pytest.raises(ConfigError, match=r"does not know; .* task\.trained_on=text"):
        run(pretrained, tmp_path / "streams", *asked)
    record = run(pretrained, tmp_path / "words", *asked, "task.trained_on=text")
    assert [score["samples"] for score in record["scores"]] == [2]


def test_suites_run_on_a_pretrained_model(pretrained: str, tmp_path: Path) -> None:
    record = run(
        pretrained, tmp_path, "task=commonsense", "task.subtasks=[wikitext,piqa,based_nq]",
        "task.limit=2",
    )  # fmt: skip
    names = [(score["subtask"], score["metric"]) for score in record["scores"]]
    assert names == [
        ("wikitext (fixture)", "perplexity"), ("piqa (fixture)", "accuracy"),
        ("based_nq (fixture)", "accuracy"),
    ]  # fmt: skip
    assert all(score["tokens_per_second"] > 0 for score in record["scores"])
    assert record["task"] == "commonsense"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mode=train"], "is pretrained; use mode=eval without checkpoint"),
        (["checkpoint=x"], "is pretrained; use mode=eval without checkpoint"),
        (["model.hub.dtype=float8"], r"model\.hub\.dtype=float8 is not one of"),
    ],
)
def test_what_cannot_be_is_said(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run("any/model", tmp_path, *overrides)
