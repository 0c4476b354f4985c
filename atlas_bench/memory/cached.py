"""Memory Caching (2602.24281): the memory at the end of every segment is kept, and read again.

The gated residual memory of the paper. A sequence is cut into segments of equal length. The memory
is read where it stands and where it stood at the end of every earlier segment:

    y_t = gamma_t^(s) M_t(q_t) + sum over i < s of gamma_t^(i) M^(i)(q_t)      Eq 9
    gamma_t^(i) = softmax over i of <u_t, mean of the keys of segment i>       Eq 10

for token t of segment s. The memory itself is any member of the family and does not restart: a
segment's memory begins as the last one's ended (section 3.4, checkpoints of one optimisation; the
paper has independent memories too and prefers neither). The paper does not say what the mean of the
token's own segment is: here it is that of its keys so far. With one gate per head, all of it is per
head.

The cache grows by one memory a segment, so this is not a memory of constant size, and the work for
a token grows with it.

Legend: B batch, T tokens, N cached segments, H heads, K key size, V value size, O and I the rows
and columns of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from atlas_bench.memory.chunkwise.forward import chunk_memory
from atlas_bench.memory.chunkwise.held import hold_gradient
from atlas_bench.memory.features import apply_features
from atlas_bench.memory.networks import forward as network_forward
from atlas_bench.memory.retention import read_weights
from atlas_bench.memory.spec import Gates, MemoryParameters, MemorySpec, MemoryState, state_dtype
from atlas_bench.memory.state import with_bias, without_autocast


@dataclass(frozen=True)
class Cache:
    """Earlier segments, and the keys of the one that is being read.

    ``weights`` name -> (B, N, H, O, I), empty before the first segment's end; ``mean_keys``
    (B, N, H, K); ``key_sum`` (B, H, K) over the tokens of the segment so far. All have the type of
    memory states.
    """

    weights: dict[str, Tensor]
    mean_keys: Tensor
    key_sum: Tensor


def empty_cache(batch: int, heads: int, key_dim: int, like: Tensor) -> Cache:
    """No segments, no keys; type and device of ``like``."""
    keys = like.new_zeros(batch, heads, key_dim, dtype=state_dtype(like.dtype))
    return Cache({}, keys[:, None][:, :0], keys)


def cached_memory(
    spec: MemorySpec,
    params: MemoryParameters,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    connectors: Tensor,
    segment: int,
    state: MemoryState | None,
    cache: Cache,
) -> tuple[Tensor, MemoryState, Cache]:
    """y (B, T, H, V), the memory and the cache after the tokens.

    Arguments as in `chunk_memory`, and ``connectors`` u (B, T, H, K). ``segment`` is a multiple of
    ``spec.chunk``, because a memory is only cached where its chunk has ended. Any T and any split
    into calls give the same result.
    """
    length, done, outputs = q.shape[1], 0, []
    while not outputs or done < length:
        place = 0 if state is None else state.position % segment
        part = slice(done, done + segment - place)
        tokens = (q[:, part], k[:, part], v[:, part])
        y, state = chunk_memory(spec, params, *tokens, _part(gates, part), state)
        sums = cache.key_sum[:, None] + tokens[1].to(cache.key_sum.dtype).cumsum(1)
        count = torch.arange(place + 1, place + 1 + y.shape[1], device=y.device)
        means = sums / count[:, None, None]
        outputs.append(_read(spec, params, tokens[0], connectors[:, part], y, means, cache))
        done += y.shape[1]
        if y.shape[1] and state.position % segment == 0:
            cache = _closed(cache, state, means[:, -1])
        elif y.shape[1]:
            cache = replace(cache, key_sum=sums[:, -1])
    return torch.cat(outputs, 1), state, cache


def _part(gates: Gates, part: slice) -> Gates:
    """The gates of some tokens."""
    given = {field.name: getattr(gates, field.name) for field in fields(gates)}
    return Gates(**{name: gate if gate is None else gate[:, part] for name, gate in given.items()})


def read_frozen(
    spec: MemorySpec, params: MemoryParameters, q: Tensor, weights: dict[str, Tensor]
) -> Tensor:
    """What q (B, T, H, K) reads from ``weights`` that do not change.

    From (H, O, I) or (B, H, O, I) it reads (B, T, H, V), from (B, N, H, O, I) (B, N, T, H, V).
    """
    seen = read_weights(spec, weights)
    phi, q = (part.transpose(1, 2) for part in (apply_features(spec, params, q), q))
    if seen["W1"].dim() == 5:
        phi, q = phi[:, None], q[:, None]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ seen[name].to(x.dtype).mT

    y = network_forward(spec, linear, phi, q, seen["W1"].shape[-2], gain=params.norm_gain)
    return with_bias(params, y.transpose(-3, -2))


def _read(
    spec: MemorySpec,
    params: MemoryParameters,
    q: Tensor,
    connectors: Tensor,
    online: Tensor,
    means: Tensor,
    cache: Cache,
) -> Tensor:
    """Eq 9: ``online`` (B, T, H, V) and what the cached memories give, by their gates."""
    if not cache.weights:
        return online
    with without_autocast(q):
        u = connectors.to(means.dtype)
        own = (u * means).sum(-1, keepdim=True)
        others = torch.einsum("bthk,bnhk->bthn", u, cache.mean_keys)
        gamma = torch.softmax(torch.cat([others, own], -1), -1).to(online.dtype)
        cached = read_frozen(spec, params, q, cache.weights)
        read = torch.einsum("bthn,bnthv->bthv", gamma[..., :-1], cached)
        return gamma[..., -1:] * online + read


def _closed(cache: Cache, state: MemoryState, mean: Tensor) -> Cache:
    """The cache with the segment that has just ended."""
    weights = {}
    for name, weight in state.weights.items():
        # Here, because what is read later goes around the chunks and their held gradients.
        new = hold_gradient(weight)[:, None]
        weights[name] = torch.cat([cache.weights[name], new], 1) if cache.weights else new
    means = torch.cat([cache.mean_keys, mean[:, None]], 1)
    return Cache(weights, means, torch.zeros_like(cache.key_sum))
