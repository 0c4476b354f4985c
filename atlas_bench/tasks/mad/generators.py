"""The six generators of MAD (mechanistic architecture design), many sequences at once.

Protocol: Poli et al. 2024 (2403.17844) and its repository (mad/data/instances.py). Every function
takes a random generator, the number of sequences, the case, and whether they are for training. It
returns inputs and targets (N, T), with UNLABELLED targets where nothing is asked.

Legend: N sequences of T tokens, M pairs in a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atlas_bench.seeding import generator
from atlas_bench.tasks.examples import UNLABELLED, Examples

MOTIF = 3  # maximum tokens of a key or value in fuzzy recall
MAP_SEED = 12345  # decides memorization's one map from keys to values
BLOCK = 1024  # sequences of one seed: the first of a set do not depend on how many follow

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One difficulty of a subtask. Sizes are in tokens, ``noise`` is the share of noise pairs."""

    vocab: int
    length: int
    train_size: int = 12_800
    noise: float = 0.0
    noise_vocab: int = 0
    copies: int = 0


def mad_examples(subtask: str, case: Case, *, count: int, training: bool, seed: object) -> Examples:
    """``count`` sequences of a subtask; ``training`` decides which targets are labelled."""
    draw = GENERATORS[subtask]
    sizes = (case.vocab, case.length, case.noise, case.copies, training)
    parts = [
        draw(generator("mad", subtask, *sizes, seed, start), BLOCK, case, training)
        for start in range(0, count, BLOCK)
    ]
    inputs, targets = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    return Examples(inputs.astype(np.int16), targets.astype(np.int16))


def recall(rng: np.random.Generator, count: int, case: Case, training: bool) -> Pair:
    """In-context recall, with ``case.noise`` noisy recall: (count, length - 1).

    length / 2 pairs of a key from the lower half of the vocabulary and its value from the upper
    half, by a map that each sequence has of its own. A pair may be two tokens of noise instead; at
    least one is not. The last pair repeats an earlier one. Training asks for every next token, the
    test for the values of keys that appeared before.
    """
    pairs, told = case.length // 2 - 1, case.vocab - case.noise_vocab
    keys = rng.integers(0, told // 2, (count, pairs))
    noisy = rng.random((count, pairs)) < case.noise
    noisy[np.arange(count), rng.integers(0, pairs, count)] = False
    kept = np.where(noisy, -1 - np.arange(pairs), keys)  # a noise pair is never a repetition
    first = first_occurrence(kept) == np.arange(pairs)
    # the last key is one of the different keys before it, all equally likely
    last = np.argmax(rng.random((count, pairs)) * (first & ~noisy), 1)
    keys = np.concatenate([keys, keys[np.arange(count), last][:, None]], 1)
    mapping = rng.integers(told // 2, told, (count, told // 2))
    values = np.take_along_axis(mapping, keys, 1)
    asked = np.concatenate([~first, np.ones((count, 1), dtype=bool)], 1)
    whole = np.stack([keys, values], 2)
    if case.noise:
        noise = rng.integers(told, case.vocab, (count, pairs, 2))
        whole[:, :-1] = np.where(noisy[..., None], noise, whole[:, :-1])
    labels = np.stack([np.full_like(values, UNLABELLED), np.where(asked, values, UNLABELLED)], 2)
    return _shifted(whole.reshape(count, -1), labels.reshape(count, -1), training)


def fuzzy_recall(rng: np.random.Generator, count: int, case: Case, training: bool) -> Pair:
    """Recall of keys and values of 1 to MOTIF different tokens; in the test keys have MOTIF.

    Pairs are added until the next might not fit, and padding before them fills the sequence. The
    last pair, the probe, repeats a pair at a place that is drawn beforehand.
    """
    half = (case.vocab - 1) // 2  # the last token is the padding
    most = case.length // (2 if training else MOTIF + 1) + 1
    key_sizes = np.full((count, most), MOTIF)
    if training:
        key_sizes = rng.integers(1, MOTIF + 1, (count, most))
    value_sizes = rng.integers(1, MOTIF + 1, (count, most))
    keys = _motifs(rng, (count, most), 0, half)
    values = _motifs(rng, (count, most), half, case.vocab - 1)
    # Column 0 is the pair of the probe; the other columns are the sequence.
    probe = key_sizes[:, 0] + value_sizes[:, 0]
    room = case.length - probe - 2 * MOTIF
    place = rng.integers(0, case.length - 2 * probe)
    spelt = (keys + 1) * (np.arange(MOTIF) < key_sizes[..., None])
    code = spelt @ (case.vocab ** np.arange(MOTIF))
    rows = np.arange(count)
    for _ in range(2):  # find the place of the probe, and put it there unless it already appeared
        same = first_occurrence(code)
        sizes = key_sizes + np.take_along_axis(value_sizes, same, 1)
        starts = np.cumsum(sizes[:, 1:], 1) - sizes[:, 1:]
        kept = starts < room[:, None]
        at = 1 + np.minimum(np.argmax(starts >= place[:, None], 1), kept.sum(1) - 1)
        there = ((same == 0) & (np.arange(most) < at[:, None]))[:, 1:].any(1)
        put = rows[~there]
        code[put, at[put]], key_sizes[put, at[put]] = code[put, 0], key_sizes[put, 0]
        keys[put, at[put]] = keys[put, 0]
    return _spell(case, training, (keys, key_sizes), (values, value_sizes), same, (starts, kept))


def _spell(
    case: Case, training: bool, keys: Pair, values: Pair, same: np.ndarray, laid: Pair
) -> Pair:
    """Fuzzy pairs (tokens (N, M, MOTIF) and sizes (N, M)) as sequences, the probe's pair last.

    ``same`` is the first pair with an equal key, whose value counts. ``laid`` says where each pair
    except the probe's starts, and whether it is in the sequence.
    """
    count, most = same.shape
    spelling = np.take_along_axis(values[0], same[..., None], 1)
    value_sizes = np.take_along_axis(values[1], same, 1)
    sizes = keys[1] + value_sizes
    starts, kept = laid
    end = np.where(kept, starts + sizes[:, 1:], 0).max(1)
    starts = np.concatenate([end[:, None], starts], 1)
    kept = np.concatenate([np.ones((count, 1), dtype=bool), kept], 1)
    repeated = np.ones((count, most), dtype=bool)  # the probe at the end is always labelled
    told = np.where(kept, same, -1 - np.arange(most))[:, 1:]
    repeated[:, 1:] = first_occurrence(told) != np.arange(most - 1)
    starts = starts + (case.length + 1 - end - sizes[:, 0])[:, None]
    whole = np.full((count, case.length + 1), case.vocab - 1)
    labels = np.full_like(whole, UNLABELLED)
    for i in range(MOTIF):
        row, pair = np.nonzero(kept & (i < keys[1]))
        whole[row, starts[row, pair] + i] = keys[0][row, pair, i]
        row, pair = np.nonzero(kept & (i < value_sizes))
        place = starts[row, pair] + keys[1][row, pair] + i
        whole[row, place] = spelling[row, pair, i]
        labels[row, place] = np.where(repeated[row, pair], spelling[row, pair, i], UNLABELLED)
    return _shifted(whole, labels, training)


def selective_copying(rng: np.random.Generator, count: int, case: Case, training: bool) -> Pair:
    """Tokens among blanks, then a copy token, then one blank for each token. The targets of these
    last blanks are the tokens in their order."""
    copies, blanks = case.copies, case.length - 2 * case.copies - 1
    tokens = rng.integers(0, case.vocab - 2, (count, copies))
    # the token after each blank
    before = rng.integers(0, copies, (count, blanks)) + copies * np.arange(count)[:, None]
    spread = np.bincount(before.ravel(), minlength=count * copies).reshape(count, copies)
    inputs = np.full((count, case.length), case.vocab - 2)
    np.put_along_axis(inputs, np.arange(copies) + np.cumsum(spread, 1), tokens, 1)
    inputs[:, copies + blanks] = case.vocab - 1
    targets = np.full_like(inputs, UNLABELLED)
    targets[:, -copies:] = tokens
    return inputs, targets


def compression(rng: np.random.Generator, count: int, case: Case, training: bool) -> Pair:
    """Random tokens and a compression token; every token is its own target."""
    inputs = rng.integers(0, case.vocab - 1, (count, case.length))
    inputs[:, -1] = case.vocab - 1
    return inputs, inputs.copy()


def memorization(rng: np.random.Generator, count: int, case: Case, training: bool) -> Pair:
    """Keys, each followed by an insert token whose target is the key's value. The map from keys to
    values is the same for all sequences, so a model must memorize it."""
    told = case.vocab - 1
    fixed = generator("mad", "map", MAP_SEED, case.vocab)
    mapping = told // 2 + fixed.permutation(told - told // 2)[: told // 2]
    keys = rng.integers(0, told // 2, (count, case.length // 2))
    inputs = np.stack([keys, np.full_like(keys, case.vocab - 1)], 2)
    targets = np.stack([np.full_like(keys, UNLABELLED), mapping[keys]], 2)
    return inputs.reshape(count, -1), targets.reshape(count, -1)


GENERATORS: dict[str, Callable[[np.random.Generator, int, Case, bool], Pair]] = {
    "in_context_recall": recall,
    "fuzzy_recall": fuzzy_recall,
    "noisy_recall": recall,
    "selective_copying": selective_copying,
    "compression": compression,
    "memorization": memorization,
}


def _motifs(rng: np.random.Generator, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    """(*shape, MOTIF) different tokens of low .. high - 1 in random order."""
    one, two, three = (rng.integers(low, high - i, shape) for i in range(MOTIF))
    two += two >= one
    three += three >= np.minimum(one, two)
    three += three >= np.maximum(one, two)
    return np.stack([one, two, three], 2)


def first_occurrence(codes_NM: np.ndarray) -> np.ndarray:
    """(N, M) the place in its row where each code appears first."""
    order = np.argsort(codes_NM, 1, kind="stable")
    ranked = np.take_along_axis(codes_NM, order, 1)
    new = np.ones(ranked.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    leader = np.maximum.accumulate(np.where(new, np.arange(ranked.shape[1]), 0), 1)
    first = np.empty_like(order)
    np.put_along_axis(first, order, np.take_along_axis(order, leader, 1), 1)
    return first


def _shifted(whole: np.ndarray, labels: np.ndarray, training: bool) -> Pair:
    """Inputs and their targets: every next token in training, else the labels."""
    return whole[:, :-1], (whole if training else labels)[:, 1:]
