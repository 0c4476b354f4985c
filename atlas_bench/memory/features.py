"""Feature maps phi of queries and keys (ATLAS Eq 5, 22), exact and of finite size."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from atlas_bench.memory.spec import MemoryParameters, MemorySpec


def feature_dim(spec: MemorySpec, key_dim: int) -> int:
    """D, the size of phi(x) for a key of ``key_dim``: C(key_dim + p, p) for degree p."""
    if spec.features == "identity":
        return key_dim
    return math.comb(key_dim + spec.degree, spec.degree) - (not spec.constant_feature)


def initial_feature_scales(spec: MemorySpec, heads: int) -> Tensor | None:
    """sqrt(1/i!) for every head and degree, (H, degree + 1): phi starts as truncated exp."""
    if spec.features == "identity":
        return None
    scales = [math.factorial(i) ** -0.5 for i in range(spec.degree + 1)]
    return torch.tensor(scales).expand(heads, -1).clone()


@lru_cache(maxsize=32)
def _monomials(key_dim: int, degree: int, constant: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """Selection matrices (key_dim + 1, D), one a factor; each monomial's degree and weight (D).

    Index 0 stands for the constant 1, so monomials of lower degree are those that choose it.
    """
    rows = list(itertools.combinations_with_replacement(range(key_dim + 1), degree))
    if not constant:
        rows = rows[1:]
    indices = torch.tensor(rows)
    selections = [
        torch.nn.functional.one_hot(indices[:, factor], key_dim + 1).T.double()
        for factor in range(degree)
    ]
    weights = []
    for row in rows:
        used = [index for index in row if index]
        repeats = math.prod(math.factorial(used.count(index)) for index in set(used))
        weights.append(math.sqrt(math.factorial(len(used)) / repeats))
    return selections, (indices > 0).sum(-1), torch.tensor(weights, dtype=torch.float64)


def apply_features(spec: MemorySpec, params: MemoryParameters, x: Tensor) -> Tensor:
    """phi(x): (B, T, H, d_k) -> (B, T, H, D).

    ``polynomial``: all distinct monomials up to ``degree`` with their multinomial weights, so
    phi(q).phi(k) = sum_i a_i (q.k)^i exactly (ATLAS Eq 5), a_i = params.coefficients[:, i].
    """
    if spec.features == "identity":
        return x
    selections, degrees, weights = _monomials(x.shape[-1], spec.degree, spec.constant_feature)
    extended = torch.cat([torch.ones_like(x[..., :1]), x], -1)
    # A product with a 0/1 matrix is a gather whose backward is also a product: fast everywhere.
    product = None
    for selection in selections:
        factor = extended @ selection.to(x)
        product = factor if product is None else product * factor
    scales = params.feature_scales.to(x)[:, degrees.to(x.device)] * weights.to(x)
    return product * scales
