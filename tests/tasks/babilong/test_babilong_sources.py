"""The published BABILong sets: order, choice of set, and failures in one sentence."""

from __future__ import annotations

import sys

import pytest

from atlas_bench.tasks.babilong.hub import SourceError, hub_repository, hub_samples
from atlas_bench.tasks.babilong.samples import evaluation_samples
from atlas_bench.text.tokenizer import Tokenizer


class _FakeHub:
    """Stands in for the datasets package; serves a real local Dataset or an error."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str, str]] = []

    def load_dataset(self, repository: str, length: str, *, split: str) -> object:
        self.calls.append((repository, length, split))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _published_rows(columns: tuple[str, ...] = ("input", "question", "target")) -> object:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = {name: [f"{name} {i}" for i in range(5)] for name in columns}
    return datasets.Dataset.from_dict(rows)


def test_hub_samples_come_in_order(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _FakeHub(_published_rows())
    monkeypatch.setitem(sys.modules, "datasets", hub)
    samples = list(
        evaluation_samples("qa2", "4k", 3, 0, noise=None, tokenizer=tokenizer, source="hub")
    )
    assert hub.calls == [("RMT-team/babilong", "4k", "qa2")]
    assert [sample.answer for sample in samples] == ["target 0", "target 1", "target 2"]
    assert tokenizer.decode(samples[1].context_ids) == " input 1"
    assert samples[1].question == "question 1"
    assert samples[1].facts == ()
    later = list(hub_samples("qa2", "4k", 9, tokenizer=tokenizer, first=3))
    assert [sample.answer for sample in later] == ["target 3", "target 4"]


def test_the_larger_set_is_used_where_it_exists() -> None:
    assert hub_repository("qa1", "128k", 1000).endswith("1k-samples")
    assert hub_repository("qa20", "0k", 1000).endswith("1k-samples")
    assert hub_repository("qa1", "256k", 1000).endswith("/babilong")
    assert hub_repository("qa6", "4k", 1000).endswith("/babilong")
    assert hub_repository("qa1", "4k", 100).endswith("/babilong")


def test_hub_failures_are_one_sentence(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    incomplete = _FakeHub(_published_rows(("input", "target")))
    monkeypatch.setitem(sys.modules, "datasets", _FakeHub(OSError("offline\ntrace")))
    with pytest.raises(SourceError, match=r"task\.source: .*qa1 at 4k.*OSError: offline") as error:
        hub_samples("qa1", "4k", 1, tokenizer=tokenizer)
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "datasets", incomplete)
    with pytest.raises(SourceError, match="no column question"):
        hub_samples("qa1", "4k", 1, tokenizer=tokenizer)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match="needs the package datasets"):
        hub_samples("qa1", "4k", 1, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"task\.lengths: '3k'"):
        hub_samples("qa1", "3k", 1, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"task\.lengths: qa11 was published only at 0k"):
        hub_samples("qa11", "4k", 1, tokenizer=tokenizer)
