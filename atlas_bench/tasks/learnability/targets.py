"""The sequences of the learnability study (ATLAS section 6.4): random inputs, and random maps.

All weights are normal with variance 1 / inputs, so that maps keep the scale of their inputs.
Attention over random keys is almost uniform, as the paper says of its own: its output is close to a
running mean, which shrinks with the length.

Legend: T tokens of dimension D.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atlas_bench.seeding import generator

TARGETS = ("low_rank", "mlp", "attention_mlp", "attention_inputs", "window_attention_mlp")
QUERIES = 1024  # queries of one piece: all scores at once would be T^2 numbers


def sequence(
    target: str, length: int, dimension: int, *, rank: int, window: int, parts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs (T, D), float32. ``parts`` decide the inputs, and with the target the map.

    An output depends on its own input and, with attention, on earlier inputs, so a longer sequence
    begins like a shorter one.
    """
    drawn = generator("learnability", "inputs", *parts).standard_normal(
        (length, dimension), dtype=np.float32
    )
    x_TD, rng = torch.from_numpy(drawn), generator("learnability", target, *parts)
    if target == "low_rank":
        down, up = _weights(rng, dimension, rank), _weights(rng, rank, dimension)
        return drawn, (x_TD @ down @ up).numpy()
    if target == "mlp":
        return drawn, _mlp(rng, x_TD).numpy()
    read_TD = _attention(rng, x_TD, window if target == "window_attention_mlp" else length)
    inputs_TD = read_TD if target == "attention_inputs" else x_TD
    return inputs_TD.numpy(), _mlp(rng, read_TD).numpy()


def _weights(rng: np.random.Generator, inputs: int, outputs: int) -> Tensor:
    drawn = rng.standard_normal((inputs, outputs), dtype=np.float32)
    return torch.from_numpy(drawn) * inputs**-0.5


def _mlp(rng: np.random.Generator, x_TD: Tensor) -> Tensor:
    """A random network with one hidden layer of width D and GELU."""
    dimension = x_TD.shape[1]
    hidden_TD = F.gelu(x_TD @ _weights(rng, dimension, dimension))
    return hidden_TD @ _weights(rng, dimension, dimension)


def _attention(rng: np.random.Generator, x_TD: Tensor, window: int) -> Tensor:
    """The output (T, D) of one causal head with random projections. A query sees ``window`` tokens,
    itself included."""
    length, dimension = x_TD.shape
    q_TD, k_TD, v_TD = (x_TD @ _weights(rng, dimension, dimension) for _ in range(3))
    read = []
    for first in range(0, length, QUERIES):
        end, begin = min(first + QUERIES, length), max(0, first - window + 1)
        query, key = torch.arange(first, end)[:, None], torch.arange(begin, end)
        hidden = (key > query) | (key <= query - window)
        scores = q_TD[first:end] @ k_TD[begin:end].T * dimension**-0.5
        read.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v_TD[begin:end])
    return torch.cat(read)
