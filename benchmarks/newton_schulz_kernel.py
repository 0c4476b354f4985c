"""Compare the Newton-Schulz kernel with its torch form on a GPU, in forward and backward.

    python benchmarks/newton_schulz_kernel.py [--counts 64 256 1024] [--steps 5]

First both forms are compared with the torch form in float64 on every shape. A speed ratio is
printed only if the kernel is as accurate as the torch form. The two run in turn; times are medians
of ROUNDS rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from torch import Tensor

from atlas_bench.memory.kernels import available
from atlas_bench.memory.newton_schulz import torch_form, torch_form_backward

ROUNDS = 20
SHAPES = ((64, 256), (128, 512), (256, 256))
SHAPES_OF_CPU = ((16, 24),)
TYPES = (torch.float32, torch.bfloat16)
# The kernel's error may be this much larger, because the two forms round in different order.
CLOSE = 2.0


def run(form: tuple, x: Tensor, grad: Tensor | None, steps: int, compute: torch.dtype) -> tuple:
    """The result and, with ``grad``, the gradient of x."""
    forward, backward = form
    y, context = forward(x, steps, "jordan", compute)
    return (y,) if grad is None else (y, backward(grad, context))


def errors(results: tuple, exact: tuple) -> list[float]:
    """The relative error of each tensor."""
    pairs = zip(results, exact, strict=True)
    return [((result.double() - truth).norm() / truth.norm()).item() for result, truth in pairs]


def milliseconds(forms: dict[str, tuple], *arguments) -> dict[str, float]:
    """The median time of each form, called with ``arguments``."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(ROUNDS + 3):
        for name, form in forms.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(form, *arguments)
            end.record()
            end.synchronize()
            if round_ >= 3:  # the first rounds compile and warm up
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def forms() -> dict[str, tuple]:
    from atlas_bench.memory.kernels import newton_schulz as kernel

    return {
        "kernel": (kernel.orthogonalise, kernel.orthogonalise_backward),
        "torch": (torch_form, torch_form_backward),
    }


def equality(device: str, steps: int) -> dict[tuple, tuple[list[float], list[float], bool]]:
    """(shape, type) -> the kernel's errors (result, gradient), the torch form's, whether the former
    are as small. On a CPU, where triton interprets the kernel, one small shape in float32."""
    compared = {}
    for shape in SHAPES if device == "cuda" else SHAPES_OF_CPU:
        x, grad = (torch.randn(16, *shape, device=device) for _ in range(2))
        arguments = (x.double(), grad.double(), steps, torch.float64)
        exact = run(forms()["torch"], *arguments)
        for compute in TYPES if device == "cuda" else TYPES[:1]:
            ours, theirs = (
                errors(run(form, x, grad, steps, compute), exact) for form in forms().values()
            )
            close = all(a < CLOSE * b for a, b in zip(ours, theirs, strict=True))
            compared[shape, compute] = (ours, theirs, close)
    return compared


def speed(shape: tuple[int, int], compute: torch.dtype, count: int, steps: int) -> dict[str, dict]:
    """Milliseconds of both forms: forward, and forward and backward."""
    x, grad = (torch.randn(count, *shape, device="cuda") for _ in range(2))
    return {
        name: milliseconds(forms(), x, given, steps, compute)
        for name, given in (("forward", None), ("both", grad))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    if not (
        torch.cuda.is_available() and available(torch.ones(1, 16, 16, device="cuda"), TYPES[0])
    ):
        print(
            "benchmarks/newton_schulz_kernel.py: needs a GPU of compute capability 8 or later, with"
            " triton and without TRITON_INTERPRET"
        )
        sys.exit(2)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.steps} steps")
    compared = equality("cuda", arguments.steps)
    print("| shape | type | kernel's error, result | gradient | torch's, result | gradient |")
    print("|---|---|---|---|---|---|")
    for (shape, compute), (ours, theirs, _) in compared.items():
        cells = " | ".join(f"{error:.1e}" for error in ours + theirs)
        print(f"| {shape[0]} x {shape[1]} | {str(compute)[6:]} | {cells} |")
    print("\n| N | shape | type | pass | kernel, ms | torch, ms | torch / kernel |")
    print("|---|---|---|---|---|---|---|")
    for (shape, compute), (_, _, close) in compared.items():
        for count in arguments.counts:
            row = f"| {count} | {shape[0]} x {shape[1]} | {str(compute)[6:]} |"
            if not close:
                print(row, "not equal | | | |")
                continue
            for name, time in speed(shape, compute, count, arguments.steps).items():
                ratio = time["torch"] / time["kernel"]
                print(row, f"{name} | {time['kernel']:.3f} | {time['torch']:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
