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
    from atlas_bench.memory.kernels import newton_schulz as kernel

    forms = {
        "kernel": (kernel.orthogonalise, kernel.orthogonalise_backward),
        "torch": (torch_form, torch_form_backward),
    }
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.steps} steps")
    close = {}
    print("| shape | type | kernel's error, result | gradient | torch's, result | gradient |")
    print("|---|---|---|---|---|---|")
    for shape in SHAPES:
        x, grad = (torch.randn(16, *shape, device="cuda") for _ in range(2))
        exact = run(forms["torch"], x.double(), grad.double(), arguments.steps, torch.float64)
        for compute in TYPES:
            ours, theirs = (
                errors(run(form, x, grad, arguments.steps, compute), exact)
                for form in forms.values()
            )
            close[shape, compute] = all(a < CLOSE * b for a, b in zip(ours, theirs, strict=True))
            cells = " | ".join(f"{error:.1e}" for error in ours + theirs)
            print(f"| {shape[0]} x {shape[1]} | {str(compute)[6:]} | {cells} |")
    print("\n| N | shape | type | pass | kernel, ms | torch, ms | torch / kernel |")
    print("|---|---|---|---|---|---|---|")
    for (shape, compute), passed in close.items():
        for count in arguments.counts:
            x, grad = (torch.randn(count, *shape, device="cuda") for _ in range(2))
            for name, given in (("forward", None), ("both", grad)):
                row = f"| {count} | {shape[0]} x {shape[1]} | {str(compute)[6:]} | {name} |"
                if not passed:
                    print(row, "not equal | | |")
                    continue
                time = milliseconds(forms, x, given, arguments.steps, compute)
                ratio = time["torch"] / time["kernel"]
                print(row, f"{time['kernel']:.3f} | {time['torch']:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
