"""Feature maps phi of queries and keys (ATLAS Eq 5, 22), of finite size; all but `sketch` exact.

Legend: B batch, T tokens, H heads, K key size, D features.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import torch
from torch import Generator, Tensor

from atlas_bench.memory.spec import MemoryParameters, MemorySpec


def feature_dim(spec: MemorySpec, key_dim: int) -> int:
    """D, the size of phi(x) for a key of size ``key_dim``.

    For degree p it is C(key_dim + p, p), minus one without the constant. For `sketch` it is key_dim
    + (p - 1) sketch_size, plus one with the constant.
    """
    if spec.features == "identity":
        return key_dim
    if spec.features == "sketch":
        return spec.constant_feature + key_dim + (spec.degree - 1) * spec.sketch_size
    return math.comb(key_dim + spec.degree, spec.degree) - (not _has_constant(spec))


def _has_constant(spec: MemorySpec) -> bool:
    """Whether phi has the degree 0; `taylor` is the series of exp, which starts at 1."""
    return spec.constant_feature or spec.features == "taylor"


def initial_feature_scales(spec: MemorySpec, heads: int) -> Tensor | None:
    """sqrt(1/i!) for every head and degree, (H, degree + 1): phi starts as a truncated exp."""
    if spec.features == "identity":
        return None
    scales = [math.factorial(i) ** -0.5 for i in range(spec.degree + 1)]
    return torch.tensor(scales).expand(heads, -1).clone()


def random_tables(spec: MemorySpec, key_dim: int, generator: Generator | None) -> Tensor | None:
    """The count sketches of `sketch`, (degree, K, sketch_size); None for other features.

    Every row holds one random sign at one random place.
    """
    if spec.features != "sketch":
        return None
    shape = (spec.degree, key_dim)
    place = torch.randint(spec.sketch_size, shape, generator=generator)
    sign = 2.0 * torch.randint(2, shape, generator=generator) - 1
    return torch.zeros(*shape, spec.sketch_size).scatter_(2, place[..., None], sign[..., None])


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # the result is cached, and later calls may be in training
def _monomials(
    key_dim: int, degree: int, constant: bool, device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor, Tensor]:
    """One selection matrix (K + 1, D) per factor; each monomial's degree and weight (D).

    They are computed on the CPU and cached on ``device``: copying to a GPU waits for all its work.
    Index 0 stands for the constant 1; monomials of lower degree choose it.
    """
    rows = list(itertools.combinations_with_replacement(range(key_dim + 1), degree))
    if not constant:
        rows = rows[1:]
    indices = torch.tensor(rows, device="cpu")
    selections = [
        torch.nn.functional.one_hot(indices[:, factor], key_dim + 1).T.to(device, dtype)
        for factor in range(degree)
    ]
    weights = []
    for row in rows:
        used = [index for index in row if index]
        repeats = math.prod(math.factorial(used.count(index)) for index in set(used))
        weights.append(math.sqrt(math.factorial(len(used)) / repeats))
    exact = torch.tensor(weights, dtype=torch.float64, device="cpu")
    return selections, (indices > 0).sum(-1).to(device), exact.to(device, dtype)


def apply_features(spec: MemorySpec, params: MemoryParameters, x: Tensor) -> Tensor:
    """phi(x): (B, T, H, K) -> (B, T, H, D), with a_i = params.coefficients[:, i].

    ``polynomial`` and ``taylor`` hold all distinct monomials up to ``degree`` with multinomial
    weights, so that phi(q).phi(k) = sum_i a_i (q.k)^i exactly (ATLAS Eq 5, 22); `taylor` always has
    a_0. ``sketch`` is a TensorSketch (Pham and Pagh 2013) of the same kernel: correct on average
    over its tables, and its size does not grow with K^degree. Its degrees 0 and 1 are exact.
    """
    if spec.features == "identity":
        return x
    if spec.features == "sketch":
        return _sketch(spec, params, x)
    selections, degrees, weights = _monomials(
        x.shape[-1], spec.degree, _has_constant(spec), x.device, x.dtype
    )
    extended = torch.cat([torch.ones_like(x[..., :1]), x], -1)
    # A product with a 0/1 matrix is a gather whose backward pass is also a product, which is fast.
    product = None
    for selection in selections:
        factor = extended @ selection
        product = factor if product is None else product * factor
    scales = params.feature_scales.to(x)[:, degrees] * weights
    return product * scales


def _sketch(spec: MemorySpec, params: MemoryParameters, x: Tensor) -> Tensor:
    """The sketch of x^(i) is the circular convolution of i count sketches of x."""
    if not x.numel():  # an FFT refuses empty tensors
        return x.new_zeros(*x.shape[:-1], feature_dim(spec, x.shape[-1]))
    scales = params.feature_scales.to(x)
    wide = x if x.dtype == torch.float64 else x.float()  # there is no FFT in lower precision
    parts = [torch.ones_like(x[..., :1]) * scales[:, :1]] if spec.constant_feature else []
    parts.append(x * scales[:, 1:2])
    product = None
    for degree in range(1, spec.degree + 1):
        factor = torch.fft.rfft(wide @ params.tables[degree - 1].to(wide))
        product = factor if product is None else product * factor
        if degree > 1:
            sketched = torch.fft.irfft(product, n=spec.sketch_size).to(x.dtype)
            parts.append(sketched * scales[:, degree : degree + 1])
    return torch.cat(parts, -1)
