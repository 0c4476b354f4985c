"""Equality steps of gpu_check.py: what a GPU computes, beside float64 on the CPU.

Nothing here has a tolerance of its own. An error is allowed up to CLOSE times the error that the
same computation makes on the CPU in the same type, where the tests have checked it.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from common import compose_settings
from gpu_job import Job
from newton_schulz_kernel import equality
from torch import Tensor

from atlas_bench.memory import MemorySpec, chunk_memory, fla, recurrent_memory
from atlas_bench.memory.state import checked_inputs, initial_state
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "memory")]

from helpers import Case, relative_error  # noqa: E402
from library_recurrences import KERNELS  # noqa: E402
from presets import ANYWHERE, NEED_GPU  # noqa: E402

TYPES = (torch.float64, torch.float32, torch.bfloat16)
CLOSE = 4.0  # two computations round in different orders
CUTS = [5, 6, 11]  # where a sequence that is read in parts is cut
MAPPED = ("linear_attention", "deltanet", "gla", "retnet", "gated_deltanet")


@dataclass(frozen=True)
class Outcome:
    """What a computation gave, in float64 on the CPU."""

    y: Tensor
    state: list[Tensor]
    gradients: dict[str, Tensor]

    def errors(self, exact: Outcome) -> dict[str, float]:
        """Relative errors of the result and of the worst state and gradient, where there are any.

        A gradient far below the largest is compared on the scale of 1/1000 of that.
        """
        found = {"result": relative_error(self.y, exact.y)}
        if self.state:
            pairs = zip(self.state, exact.state, strict=True)
            found["state"] = max(relative_error(ours, wanted, 1e-6) for ours, wanted in pairs)
        if self.gradients:
            scale = 1e-3 * max(grad.norm().item() for grad in exact.gradients.values())
            found["gradient"] = max(
                relative_error(grad, exact.gradients[name], scale)
                for name, grad in self.gradients.items()
            )
        return found


# (device, type, where the sequence is cut, whether gradients are wanted) -> Outcome
Run = Callable[[str, torch.dtype, list[int], bool], Outcome]


def compare(
    name: str, job: Job, length: int, exact: Outcome, run: Run, references: list[Run], dtype
) -> dict:
    """One row: errors on the job's device, whole, in parts and token by token, and what is allowed.

    ``references`` run on the CPU in ``dtype``. What would be allowed an error of 1 is not judged:
    rounding alone decides it.
    """
    beside = [other("cpu", dtype, CUTS, True).errors(exact) for other in references]
    beside += [other("cpu", dtype, [], True).errors(exact) for other in references]
    least = torch.finfo(dtype).eps
    allowed = {key: CLOSE * max(least, *(each[key] for each in beside)) for key in beside[0]}
    row: dict = {"cell": name, "type": str(dtype)[6:]}
    try:
        row |= run(job.device, dtype, [], True).errors(exact)
    except RuntimeError as error:  # a kernel without a backward pass on this card
        row["note"] = " ".join(str(error).split())[:160]
        row |= run(job.device, dtype, [], False).errors(exact)
    for way, cuts in (("in parts", CUTS), ("by token", list(range(1, length)))):
        row[way] = run(job.device, dtype, cuts, False).errors(exact)["result"]
    limits = allowed | {"in parts": allowed["result"], "by token": allowed["result"]}
    row |= {f"allowed {key}": value for key, value in allowed.items()}
    judged = {key: limit for key, limit in limits.items() if limit < 1 and key in row}
    within = all(row[key] <= limit for key, limit in judged.items())
    return row | {"equal": within and "note" not in row}


def _pieces(cuts: list[int], length: int) -> list[tuple[int, int]]:
    return list(zip([0, *cuts], [*cuts, length], strict=True))


def _upstream(shape: torch.Size) -> Tensor:
    """The gradient that reaches the result: fixed, and exact in bfloat16."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).bfloat16().double()


def _wide(x: Tensor) -> Tensor:
    return x.detach().double().cpu()


# the memory ---------------------------------------------------------------------------------


def memory(job: Job) -> Iterator[dict]:
    """Every kind of memory of the presets: the chunk-parallel form against the recurrence."""
    kinds: dict[MemorySpec, list[str]] = {}
    for name in ANYWHERE:
        model = compose_settings([f"model={name}"]).model
        if any("memory" in mixer for mixer in model.mixers):
            kinds.setdefault(model.memory.spec(), []).append(name)
    for spec, names in job.share(list(kinds.items())):
        case, exact = _case(spec, 20 if job.small else 70)
        forms = [partial(_memory_outcome, case, form) for form in (recurrent_memory, chunk_memory)]
        for dtype in TYPES:
            yield compare(", ".join(names), job, case.length, exact, forms[1], forms, dtype)


def _case(spec: MemorySpec, length: int) -> tuple[Case, Outcome]:
    """Inputs that every type holds exactly, and what float64 makes of them."""
    case = Case(spec, length=length, key_dim=16, value_dim=16)
    case.length = length
    case = _moved(_moved(_moved(case, "cpu", torch.bfloat16), "cpu", torch.float32), "cpu")
    return case, _memory_outcome(case, recurrent_memory, "cpu", torch.float64, [], True)


def _moved(case: Case, device: str, dtype: torch.dtype = torch.float64) -> Case:
    """The case with q, k, v in ``dtype`` and what stays wide in a model at least in float32."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32

    def leaf(x: Tensor, to: torch.dtype) -> Tensor:
        return x.detach().to(device, to).requires_grad_()

    moved = copy.copy(case)
    moved.inputs = {
        name: leaf(x, dtype if name in "qkv" else kept) for name, x in case.inputs.items()
    }
    moved.weights = {name: leaf(x, kept) for name, x in case.weights.items()}
    moved.scales = None if case.scales is None else leaf(case.scales, kept)
    moved.tables = None if case.tables is None else case.tables.to(device, kept)
    return moved


def _memory_outcome(
    case: Case, form: Callable, device: str, dtype: torch.dtype, cuts: list[int], gradients: bool
) -> Outcome:
    moved = _moved(case, device, dtype)
    state, parts = None, []
    with torch.set_grad_enabled(gradients):
        for start, stop in _pieces(cuts, case.length):
            y, state = moved.run(form, start, stop, state)
            parts.append(y)
        y = torch.cat(parts, 1)
    grads: dict[str, Tensor] = {}
    if gradients:
        loss = (y.double() * _upstream(y.shape).to(device)).sum()
        found = torch.autograd.grad(loss, list(moved.leaves.values()), allow_unused=True)
        pairs = zip(moved.leaves.items(), found, strict=True)
        grads = {n: _wide(torch.zeros_like(x) if g is None else g) for (n, x), g in pairs}
    # The rest of a state is its inputs, and what a kernel of the library does not need.
    kept = [*state.weights.values(), *state.momentum.values()]
    return Outcome(_wide(y), [_wide(tensor) for tensor in kept], grads)


# models -------------------------------------------------------------------------------------


def models(job: Job) -> Iterator[dict]:
    """Every preset, narrow: hidden states and the gradients of all parameters."""
    for name in job.share(ANYWHERE):
        for dtype in TYPES:
            yield _model_row(name, job, dtype)


def _model_row(name: str, job: Job, dtype: torch.dtype) -> dict:
    settings = compose_settings([f"model={name}", "scale.attention_window=32", "model.match=none"])
    model = build_model(settings.model, settings.scale, vocab_size=64, seed=0)
    length = 20 if job.small else 70
    run = partial(_model_outcome, model, length)
    exact = run("cpu", torch.float64, [], True)
    return compare(name, job, length, exact, run, [run], dtype)


def _model_outcome(
    model: LanguageModel, length: int, device: str, dtype: torch.dtype, cuts: list[int], grads: bool
) -> Outcome:
    model = copy.deepcopy(model).to(device)
    model = model.double() if dtype == torch.float64 else model
    tokens = torch.randint(0, 64, (2, length), generator=torch.Generator().manual_seed(0))
    state, parts = None, []
    halved = torch.autocast(device, torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()
    kernels = _documented_kernels() if device == "cpu" else nullcontext()
    with torch.inference_mode(not grads), halved, kernels:
        for start, stop in _pieces(cuts, length):
            hidden, state = model(tokens[:, start:stop].to(device), state)
            parts.append(hidden)
        y = torch.cat(parts, 1)
    gradients = {}
    if grads:
        (y.double() * _upstream(y.shape).to(device)).sum().backward()
        gradients = {
            name: _wide(parameter.grad)
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    return Outcome(_wide(y), [], gradients)


# kernels ------------------------------------------------------------------------------------


def newton_schulz(job: Job) -> Iterator[dict]:
    """The Triton kernel against its torch form, both beside float64."""
    if job.small:
        os.environ["TRITON_INTERPRET"] = "1"
    for (shape, compute), (ours, theirs, close) in equality(job.device, steps=5).items():
        yield {
            "cell": f"{shape[0]} x {shape[1]}", "type": str(compute)[6:],
            "kernel result": ours[0], "kernel gradient": ours[1],
            "torch result": theirs[0], "torch gradient": theirs[1], "equal": close,
        }  # fmt: skip


def library(job: Job) -> Iterator[dict]:
    """flash-linear-attention's kernels in bfloat16: the presets mapped onto them, its mixers.

    They are also measured where atlas-bench refuses them, to see whether it has to. On a CPU the
    recurrences that the library documents take their place.
    """
    refused = fla.unavailable_reason()
    if refused is not None and not job.small:
        yield {
            "cell": f"part {job.part + 1}",
            "note": f"atlas-bench refuses the kernels, {refused}",
        }
        if importlib.util.find_spec("fla") is None:
            return
    if not job.small:
        _tune_little()
    pairs = itertools.zip_longest(MAPPED, NEED_GPU)
    for name in job.share([name for pair in pairs for name in pair if name is not None]):
        if name in NEED_GPU:
            yield _model_row(name, job, torch.bfloat16)
            continue
        length = 20 if job.small else 150
        case, exact = _case(compose_settings([f"model={name}"]).model.memory.spec(), length)
        forms = [partial(_memory_outcome, case, form) for form in (recurrent_memory, chunk_memory)]
        run = partial(_memory_outcome, case, _mapped)
        with _documented_kernels() if job.small else nullcontext():
            yield compare(name, job, length, exact, run, forms, torch.bfloat16)


def _tune_little() -> None:
    """Two candidates for each kernel: the library tries dozens, which takes minutes."""
    from triton.runtime.autotuner import Autotuner

    start = Autotuner.__init__

    def short(self, fn, arg_names, configs, *arguments, **options) -> None:
        start(self, fn, arg_names, configs[:2], *arguments, **options)

    Autotuner.__init__ = short


def _mapped(spec, params, q, k, v, gates, state=None):
    """`fla.run` with the arguments of `recurrent_memory`."""
    inputs = checked_inputs(spec, params, q, k, v, gates)
    state = initial_state(spec, params, inputs) if state is None else state
    return fla.run(spec, params, inputs, state)


@contextmanager
def _documented_kernels() -> Iterator[None]:
    """The library's recurrences as it documents them in place of its kernels, for a CPU."""
    kernel = fla._kernel
    fla._kernel = KERNELS.__getitem__
    try:
        yield
    finally:
        fla._kernel = kernel
