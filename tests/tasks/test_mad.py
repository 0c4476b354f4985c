"""MAD: the six generators read by independent eyes, the cases, the metrics and the scores."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from atlas_bench.tasks.examples import UNLABELLED, Examples
from atlas_bench.tasks.mad.cases import SUBTASKS, changes, make_case
from atlas_bench.tasks.mad.generators import mad_examples
from atlas_bench.tasks.mad.task import MadSettings, MadTask, macro_accuracy
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import TokenPredictions
from atlas_bench.text.settings import TextSettings

GOLDEN = {  # of the test sequences; the same on every machine
    "in_context_recall": "e4d5c0f4d2166bb6",
    "fuzzy_recall": "f116bd52640b997b",
    "noisy_recall": "67daad173459c317",
    "selective_copying": "f824788839698f49",
    "compression": "38471005792d1709",
    "memorization": "523a21005d4ff4cb",
}


def draw(subtask: str, change: str = "baseline", count: int = 200, **options) -> Examples:
    options = {"training": False, "seed": 0} | options
    return mad_examples(subtask, make_case(subtask, change), count=count, **options)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_golden_hashes(subtask: str) -> None:
    assert draw(subtask, count=64).fingerprint == GOLDEN[subtask]
    assert draw(subtask, count=64).fingerprint != draw(subtask, count=64, seed=1).fingerprint
    few, many = draw(subtask, count=64), draw(subtask, count=1500)
    assert (many.inputs[:64] == few.inputs).all()


@pytest.mark.parametrize("change", ["baseline", "vocab_64", "length_256"])
def test_recall_asks_for_values_of_keys_that_were_there(change: str) -> None:
    case = make_case("in_context_recall", change)
    found = draw("in_context_recall", change)
    assert found.inputs.shape == (200, case.length - 1)
    for inputs, targets in zip(found.inputs.tolist(), found.targets.tolist(), strict=True):
        mapping: dict[int, int] = {}
        for i in range(0, case.length - 1, 2):
            key, wanted = inputs[i], targets[i]
            assert key < case.vocab // 2
            assert wanted == mapping.get(key, UNLABELLED)
            if i + 1 < len(inputs):
                assert targets[i + 1] == UNLABELLED
                assert case.vocab // 2 <= inputs[i + 1] < case.vocab
                assert mapping.setdefault(key, inputs[i + 1]) == inputs[i + 1]
        assert targets[-1] == mapping[inputs[-1]]


def test_the_last_key_is_any_of_the_different_keys_and_values_are_drawn_anew() -> None:
    found = draw("in_context_recall", count=4000)
    assert min(np.bincount(found.inputs[:, -1])) > 4000 / 8 * 0.8
    values = np.bincount(found.targets[:, -1], minlength=16)[8:]
    assert min(values) > 4000 / 8 * 0.8


@pytest.mark.parametrize(("change", "share"), [("baseline", 0.2), ("noise_0.8", 0.8)])
def test_noise_takes_the_place_of_whole_pairs(change: str, share: float) -> None:
    case = make_case("noisy_recall", change)
    found = draw("noisy_recall", change)
    pairs = found.inputs[:, :-1].reshape(200, -1, 2)
    noisy = pairs >= 16
    assert (noisy[..., 0] == noisy[..., 1]).all()
    assert pairs[noisy].max() == case.vocab - 1
    assert noisy.mean() == pytest.approx(share * 62 / 63, abs=0.02)
    assert not noisy[..., 0].all(1).any()
    assert (found.targets[:, :-1][found.inputs[:, :-1] >= 8] == UNLABELLED).all()
    asked = found.targets[:, :-1:2]
    seen = [[k in row[:i] for i, k in enumerate(row)] for row in pairs[..., 0].tolist()]
    assert ((asked != UNLABELLED) == (np.array(seen) & ~noisy[..., 0])).all()


@pytest.mark.parametrize("subtask", ["in_context_recall", "fuzzy_recall", "noisy_recall"])
def test_recall_is_trained_on_every_next_token(subtask: str) -> None:
    found = draw(subtask, training=True)
    assert (found.targets[:, :-1] == found.inputs[:, 1:]).all()
    assert (found.targets[:, -1] != UNLABELLED).all()


def motifs(row: list[int], half: int, padding: int) -> list[tuple[tuple, tuple]]:
    """The keys and values of a fuzzy sequence: they alternate, in halves of the vocabulary."""
    runs = itertools.groupby((t for t in row if t != padding), lambda token: token < half)
    parts = [(is_key, tuple(tokens)) for is_key, tokens in runs]
    return [(parts[i][1], parts[i + 1][1]) for i in range(0, len(parts), 2)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", ["baseline", "vocab_32", "length_256"])
def test_fuzzy_pairs_are_motifs_and_the_last_was_told(training: bool, change: str) -> None:
    case = make_case("fuzzy_recall", change)
    found = draw("fuzzy_recall", change, training=training)
    assert found.inputs.shape == (200, case.length)
    last = found.targets[:, -1:]
    sizes = Counter()
    for row, targets in zip(np.hstack([found.inputs, last]).tolist(), found.targets, strict=True):
        start = next(i for i, token in enumerate(row) if token != case.vocab - 1)
        assert case.vocab - 1 not in row[start:], "padding is in front"
        pairs = motifs(row, (case.vocab - 1) // 2, case.vocab - 1)
        assert sum(len(k) + len(v) for k, v in pairs) == len(row) - start
        mapping: dict[tuple, tuple] = {}
        wanted: list[int] = []
        for key, value in pairs:
            assert len(set(key)) == len(key) <= 3
            assert len(set(value)) == len(value) <= 3
            wanted += value if key in mapping else ()
            assert mapping.setdefault(key, value) == value
        assert pairs[-1] in pairs[:-1]
        sizes.update(len(key) for key, _ in pairs)
        if not training:
            assert targets[targets != UNLABELLED].tolist() == wanted
    assert set(sizes) == ({1, 2, 3} if training else {3})
    if training:
        assert max(sizes.values()) / min(sizes.values()) < 1.15


def test_fuzzy_probes_are_told_anywhere() -> None:
    """In training, where a key of three tokens repeats seldom: the place is spread evenly."""
    found = draw("fuzzy_recall", "vocab_128", count=2000)
    whole = np.hstack([found.inputs, found.targets[:, -1:]])
    shares = []
    for row in whole.tolist():
        pairs = motifs(row, 63, 127)
        shares.append(pairs.index(pairs[-1]) / (len(pairs) - 1))
    histogram = np.histogram(shares, bins=4, range=(0, 1))[0]
    assert min(histogram) > 350


@pytest.mark.parametrize("change", ["baseline", "copies_96", "length_512", "vocab_128"])
def test_selective_copying_wants_the_scattered_tokens_in_order(change: str) -> None:
    case = make_case("selective_copying", change)
    found = draw("selective_copying", change)
    blank, copy = case.vocab - 2, case.vocab - 1
    assert found.inputs.shape == (200, case.length)
    for inputs, targets in zip(found.inputs.tolist(), found.targets.tolist(), strict=True):
        at = inputs.index(copy)
        assert at == case.length - case.copies - 1
        assert inputs[at + 1 :] == [blank] * case.copies
        tokens = [token for token in inputs[:at] if token != blank]
        assert targets == [UNLABELLED] * (at + 1) + tokens
        assert inputs[at - 1] != blank, "blanks stand before tokens"
    gaps = np.diff(np.nonzero(found.inputs[:, : case.length - case.copies - 1] < blank)[1])
    mean = (case.length - 2 * case.copies - 1) / case.copies
    assert gaps[gaps > 0].mean() == pytest.approx(1 + mean, rel=0.1)


def test_compression_wants_everything_back() -> None:
    found = draw("compression")
    assert (found.targets == found.inputs).all()
    assert (found.inputs[:, -1] == 15).all()
    assert set(np.unique(found.inputs[:, :-1])) == set(range(15))
    assert MadSettings(subtask="compression").readout == "last"
    assert {MadSettings(subtask=s).readout for s in SUBTASKS if s != "compression"} == {"next"}


@pytest.mark.parametrize("change", ["baseline", "vocab_1024"])
def test_memorization_has_one_map_for_all_sequences(change: str) -> None:
    vocab = make_case("memorization", change).vocab
    sets = [draw("memorization", change, seed=seed, training=seed == 1) for seed in (0, 1)]
    mapping: dict[int, int] = {}
    for found in sets:
        assert (found.inputs[:, 1::2] == vocab - 1).all()
        assert (found.targets[:, ::2] == UNLABELLED).all()
        pairs = zip(found.inputs[:, ::2].ravel(), found.targets[:, 1::2].ravel(), strict=True)
        for key, value in pairs:
            assert key < (vocab - 1) // 2 <= value < vocab - 1
            assert mapping.setdefault(key, value) == value
    assert len(set(mapping.values())) == len(mapping) == (vocab - 1) // 2


def test_the_cases_are_the_protocol_s() -> None:
    assert [len(changes(subtask)) for subtask in SUBTASKS] == [11, 11, 14, 13, 11, 6]
    assert make_case("noisy_recall", "noise_0.6").noise == 0.6
    assert make_case("noisy_recall", "vocab_80").noise_vocab == 16
    assert make_case("memorization", "baseline").train_size == 256
    assert make_case("compression", "train_size_800").train_size == 800
    one, other = (draw("compression", change) for change in ("baseline", "train_size_800"))
    assert one.fingerprint == other.fingerprint, "a smaller training set has the same test"
    settings = MadSettings(subtask="selective_copying", change="copies_32", train_examples=500)
    task = MadTask(settings, TextSettings(), seed=0, question_every=10)
    (cell,) = task.cells()
    assert (cell.subtask, cell.length, cell.tokens) == (
        "selective_copying copies_32", "256", 256,
    )  # fmt: skip
    assert task.epoch_tokens == 500 * 256


def test_splits_share_no_example() -> None:
    task = MadTask(
        MadSettings(train_examples=500, test_examples=200), TextSettings(), seed=0,
        question_every=10,
    )  # fmt: skip
    train = {row.tobytes() for i in range(5) for row in task.batch(Stage(), 100 * i, 100).inputs}
    test = [row.tobytes() for b in task.labelled_batches(task.cells()[0]) for row in b.inputs]
    validation = task.validation(0)
    batches = list(validation.labelled_batches(validation.cells()[0]))
    valid = [row.tobytes() for b in batches for row in b.inputs]
    assert len(train) == 500
    assert len(test) == len(valid) == 200
    assert not train & {*test, *valid}
    assert not {*test} & {*valid}
    assert len(next(task.validation(30).labelled_batches(task.cells()[0])).inputs) == 30
    for batch in batches:
        assert not batch.answer_mask.all(), "it is asked as the test is"


def found(example: list[int], wanted: list[int], predicted: list[int]) -> TokenPredictions:
    columns = (np.array(column) for column in (example, range(len(wanted)), wanted, predicted))
    return TokenPredictions(*columns, np.zeros(len(wanted), dtype=np.float32))


def test_macro_accuracy_weighs_tokens_and_batches_equally() -> None:
    # one batch: token 1 right 3 of 4, token 2 right 1 of 1, token 3 predicted but never wanted
    assert macro_accuracy(found([0] * 5, [1, 1, 1, 1, 2], [1, 1, 1, 3, 2])) == pytest.approx(
        (3 / 4 + 1 + 0) / 3
    )
    # two batches of two and one examples
    two = found([0, 1, 1, 2], [1, 2, 2, 1], [1, 2, 5, 1])
    assert macro_accuracy(two, batch=2) == pytest.approx((2 * (1 + 1 / 2 + 0) / 3 + 1 * 1) / 3)
    task = MadTask(MadSettings(), TextSettings(), seed=0, question_every=10)
    macro, micro = task.judge(task.cells()[0], found([0] * 5, [1, 1, 1, 1, 2], [1, 1, 1, 3, 2]))
    assert (macro.metric.name, macro.correct, macro.samples) == ("macro_accuracy", None, 1)
    assert (micro.metric.name, micro.value, micro.correct, micro.samples) == ("accuracy", 0.8, 4, 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subtask": "fuzzy"}, r"task\.subtask=fuzzy .*did you mean fuzzy_recall\?"),
        ({"change": "vocab_33"}, r"task\.change=vocab_33 is not one of baseline, vocab_32"),
        ({"change": "noise_0.4"}, r"task\.change=noise_0.4 is not one of"),
        ({"test_examples": 0}, r"task\.test_examples=0 must be at least 1"),
        ({"change": "train_size_800", "train_examples": 9}, "both set the number of examples"),
    ],
)
def test_what_is_no_case_names_the_key(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MadSettings(**change).check(TextSettings())
