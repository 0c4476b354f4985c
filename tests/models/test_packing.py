"""Rows of several documents: every document as if it stood alone, and little read for nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_presets import build

from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.packing import MAX_PADDING, packed_forward, part_groups

ROWS, LENGTH = 2, 70
# Longer than two chunks and two windows, shorter than a chunk, one token; the first row begins
# in the middle of a document.
STARTS = ((7, 8, 40), (0, 66))


def starts() -> np.ndarray:
    marked = np.zeros((ROWS, LENGTH), dtype=bool)
    for row, places in enumerate(STARTS):
        marked[row, list(places)] = True
    return marked


def tokens() -> torch.Tensor:
    return torch.randint(0, 64, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def alone(model: LanguageModel) -> tuple[torch.Tensor, list]:
    """Hidden states (B, T, width) and the gates of every document in a call of its own."""
    rows, gates = [], []
    for row, places in enumerate(STARTS):
        cuts = sorted({0, *places, LENGTH})
        parts = []
        for begin, end in zip(cuts, cuts[1:], strict=False):
            parts.append(model(tokens()[row : row + 1, begin:end])[0])
            gates.append((end - begin, [mixer.observed for mixer in model.all_mixers()]))
        rows.append(torch.cat(parts, 1))
    return torch.cat(rows), gates


def gradients(model: LanguageModel, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.linspace(-1, 1, hidden[0].numel(), dtype=hidden.dtype).view_as(hidden[0])
    (hidden * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "name",
    [
        "transformer",
        "samba",
        "swla",
        "deltanet",
        "titans",
        "atlas",
        "titans_mac",
        "titans_mag",
        "titans_cached",
        "rmt",
        "armt",
    ],
)
def test_every_document_is_read_as_if_it_stood_alone(name: str) -> None:
    model = build(name).train()
    hidden_alone, observed_alone = alone(model)
    expected = gradients(model, hidden_alone)
    packed = packed_forward(model, tokens(), starts())
    torch.testing.assert_close(packed, hidden_alone, rtol=1e-9, atol=1e-10)
    for layer, mixer in enumerate(model.all_mixers()):
        for key, gate in mixer.observed.items():
            one_by_one = torch.cat([each[layer][key][0] for _, each in observed_alone])
            torch.testing.assert_close(gate.flatten(0, 1), one_by_one, rtol=1e-9, atol=1e-10)
    for key, gradient in gradients(model, packed).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-6, atol=1e-9, msg=key)
    carried, _ = model(tokens())
    torch.testing.assert_close(carried[0, :7], hidden_alone[0, :7], rtol=1e-9, atol=1e-10)
    assert (carried[0, 8:] - hidden_alone[0, 8:]).abs().max() > 1e-3, "without resets it is another"


def test_the_price_on_changes_is_of_all_tokens_and_no_padding() -> None:
    model = build("atlas").train()
    _, observed_alone = alone(model)
    mean = 0.0
    for length, gates in observed_alone:
        for mixer, observed in zip(model.all_mixers(), gates, strict=True):
            mixer.observed = observed
        mean += length * model.auxiliary_losses()["memory_change"].item() / (ROWS * LENGTH)
    packed_forward(model, tokens(), starts())
    change = model.auxiliary_losses()["memory_change"].item()
    assert change == pytest.approx(mean, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 200), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_groups_hold_every_token_once_with_bounded_padding(
    rows: int, length: int, share: float, seed: int
) -> None:
    marked = np.random.default_rng(seed).random((rows, length)) < share
    before = marked.copy()
    groups = list(part_groups(marked))
    assert np.array_equal(marked, before)
    places = np.concatenate([f + np.arange(n) for g in groups for f, n in zip(*g, strict=True)])
    assert np.array_equal(np.sort(places), np.arange(rows * length))
    first = np.sort(np.concatenate([first for first, _ in groups]))
    marked[:, 0] = True
    assert np.array_equal(first, np.flatnonzero(marked))
    for _, lengths in groups:
        assert len(lengths) * lengths.max() <= (1 + MAX_PADDING) * lengths.sum()


def test_documents_of_like_length_are_read_in_one_call() -> None:
    marked = np.zeros((16, 1000), dtype=bool)
    marked[:, [0, 480]] = True
    assert len(list(part_groups(marked))) == 1
    marked[0, 999] = True  # a part of one token is cheaper as padding than in a call
    assert len(list(part_groups(marked))) == 1
