"""GPU kernels beside their torch forms; importing this package does not import triton."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

SMALLER_SIDE = (16, 256)  # a dot needs at least 16 x 16; no memory needs more than 256


def available(x: Tensor, compute: torch.dtype) -> bool:
    """Whether `kernels.newton_schulz` accepts N matrices ``x`` (N, n, m), iterated in ``compute``.

    It accepts float32, iterated in float32 or bfloat16, on a GPU of compute capability 8 or later
    with triton installed, but not under torch.compile, which cannot fuse anything with a kernel.
    With TRITON_INTERPRET=1, set before the first use, it runs on a CPU in float32, slowly: for
    tests.
    """
    if not SMALLER_SIDE[0] <= min(x.shape[-2:]) <= SMALLER_SIDE[1] or x.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or not (x.is_cuda or x.is_cpu and _interpreted()):
        return False
    if _interpreted():  # the interpreter takes bfloat16 for 16-bit integers
        return compute == torch.float32 and _installed()
    return (
        compute in (torch.float32, torch.bfloat16)
        and torch.cuda.get_device_capability(x.device)[0] >= 8
        and _installed()
    )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
