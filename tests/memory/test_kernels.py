"""The Triton kernel is the torch form: interpreted on a CPU everywhere, compiled where a GPU is.

Fresh memory is NaN throughout: what is read or returned before it is written shows.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from helpers import Case, relative_error
from torch import Tensor

from atlas_bench.memory import MemorySpec, chunk_memory, kernels, recurrent_memory
from atlas_bench.memory.chunkwise import muon
from atlas_bench.memory.newton_schulz import (
    orthogonalise,
    orthogonalise_backward,
    torch_form,
    torch_form_backward,
)

# Before TRITON_INTERPRET is set, or triton's own functions would be interpreted in this process.
triton = pytest.importorskip("triton", reason="triton is not installed")

NAME = "atlas_bench.memory.kernels.newton_schulz"


def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernel's module made anew, until the test ends: it is interpreted or not for good."""
    spec = importlib.util.find_spec(NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, NAME, module)
    monkeypatch.setattr(kernels, "newton_schulz", module, raising=False)
    return module


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return load(monkeypatch)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return load(monkeypatch)


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    x = torch.zeros(2, 3)
    assert x.new_empty(2).isnan().all()
    assert torch.empty_like(x.mT).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def matrices(count: int, n: int, m: int, kind: str, seed: int = 0) -> Tensor:
    """(count, n, m) float64, of numbers that float32 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, m, generator=generator)
    if kind == "deficient":
        x = x[..., :4] @ torch.randn(count, 4, m, generator=generator)
    if kind == "zero":
        x[0] = 0
    return x.double()


def largest_error(result: Tensor, expected: Tensor) -> float:
    """||result - expected|| / ||expected|| of the worst matrix; 0 / 0 is 0."""
    size = expected.flatten(1).norm(dim=1).clamp_min(1e-30)
    return ((result.double() - expected).flatten(1).norm(dim=1) / size).max().item()


def errors(
    form: tuple, x: Tensor, steps: int, coefficients: str, compute: torch.dtype, device: str = "cpu"
) -> tuple[float, float]:
    """Of a form's result and gradient, in ``compute``, beside the torch form's in float64."""
    grad = matrices(*x.shape, "full", seed=1)
    wanted, context = torch_form(x, steps, coefficients, torch.float64)
    wanted_grad = torch_form_backward(grad, context)
    forward, backward = form
    y, context = forward(x.float().to(device), steps, coefficients, compute)
    x_grad = backward(grad.float().to(device), context)
    assert y.shape == x_grad.shape == x.shape
    assert y.dtype == x_grad.dtype == torch.float32
    return largest_error(y.cpu(), wanted), largest_error(x_grad.cpu(), wanted_grad)


def form_of(module: ModuleType) -> tuple:
    return module.orthogonalise, module.orthogonalise_backward


# Newton-Schulz multiplies rounding; the torch form in float32 comes as close as the kernel does.
FORWARD, BACKWARD = 5e-5, 5e-4


@pytest.mark.parametrize(
    ("shape", "kind", "steps", "coefficients"),
    [
        ((2, 16, 16), "full", 5, "jordan"),
        ((2, 16, 40), "full", 5, "jordan"),
        ((2, 40, 16), "full", 8, "polar_express"),
        ((3, 40, 17), "full", 0, "jordan"),
        ((3, 17, 40), "deficient", 5, "jordan"),
        ((2, 33, 20), "zero", 5, "polar_express"),
        ((2, 20, 33), "zero", 1, "jordan"),
        ((1, 65, 65), "full", 2, "polar_express"),
        ((1, 70, 130), "full", 1, "jordan"),
        ((1, 130, 70), "full", 1, "polar_express"),
        ((1, 256, 24), "deficient", 2, "polar_express"),
        pytest.param((1, 256, 256), "full", 1, "jordan", marks=pytest.mark.slow),
        ((0, 16, 24), "full", 5, "jordan"),
    ],
)
def test_the_kernel_in_float32_is_the_torch_form_in_float64(
    interpreted: ModuleType, shape: tuple, kind: str, steps: int, coefficients: str
) -> None:
    x = matrices(*shape, kind)
    if shape[0] == 0:
        y, context = interpreted.orthogonalise(x.float(), steps, coefficients, torch.float32)
        assert interpreted.orthogonalise_backward(y, context).shape == shape
        return
    errors_found = errors(form_of(interpreted), x, steps, coefficients, torch.float32)
    assert errors_found[0] < FORWARD
    assert errors_found[1] < BACKWARD


@pytest.mark.parametrize("shape", [(2, 18, 35), (2, 35, 18)])
def test_any_strides_are_taken(interpreted: ModuleType, shape: tuple) -> None:
    x = matrices(*shape, "full").float()
    grad = torch.ones(()).expand(shape)
    wanted, context = interpreted.orthogonalise(x, 2, "jordan", torch.float32)
    wanted_grad = interpreted.orthogonalise_backward(grad.contiguous(), context)
    transposed = x.mT.contiguous().mT
    every_other = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    for strided in (transposed, every_other):
        assert not strided.is_contiguous()
        y, context = interpreted.orthogonalise(strided, 2, "jordan", torch.float32)
        assert torch.equal(y, wanted)
        assert torch.equal(interpreted.orthogonalise_backward(grad, context), wanted_grad)


@pytest.mark.parametrize("recompute", [False, True])
def test_chunked_memory_by_the_kernel_is_the_reference(
    interpreted: ModuleType, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """chunked in float32 by the kernel; reference in float64, which never uses the kernel."""
    spec = MemorySpec(
        network="mlp", optimizer="muon", window=4, update_every=2, chunk=4, expansion=1,
        newton_schulz_steps=1,
    )  # fmt: skip
    monkeypatch.setattr(muon, "KEPT_BYTES", 0 if recompute else 2**40)
    launched = []
    product = interpreted._product
    monkeypatch.setattr(
        interpreted, "_product", lambda *a, **k: launched.append(1) or product(*a, **k)
    )
    case, exact = (Case(spec, length=7, key_dim=16, value_dim=20) for _ in range(2))
    case.inputs = {n: x.detach().float().requires_grad_() for n, x in case.inputs.items()}
    case.weights = {n: x.detach().float().requires_grad_() for n, x in case.weights.items()}
    y_exact, state_exact = exact.run(recurrent_memory)
    gradients_exact = torch.autograd.grad(y_exact.square().sum(), list(exact.leaves.values()))
    assert not launched
    y, state = case.run(chunk_memory)
    forward_launches = len(launched)
    assert forward_launches > 0
    gradients = torch.autograd.grad(y.square().sum(), list(case.leaves.values()))
    assert len(launched) > 2 * forward_launches
    assert relative_error(y.double(), y_exact) < 1e-5
    for tensor, expected in zip(state.tensors(), state_exact.tensors(), strict=True):
        assert relative_error(tensor.double(), expected, scale=1e-6) < 1e-5
    for name, grad, expected in zip(case.leaves, gradients, gradients_exact, strict=True):
        assert relative_error(grad.double(), expected) < 1e-4, name


def by_kernel(x: Tensor, compute: torch.dtype = torch.float32) -> bool:
    y, context = orthogonalise(x, 1, "jordan", compute)
    assert orthogonalise_backward(y, context).shape == x.shape
    return context[2].by_kernel


def test_the_torch_form_is_used_on_a_cpu(compiled: ModuleType) -> None:
    assert not by_kernel(torch.ones(1, 16, 16))


def test_the_kernel_is_used_for_what_it_takes_only(interpreted: ModuleType) -> None:
    assert by_kernel(torch.ones(1, 16, 300))
    assert by_kernel(torch.ones(1, 300, 16))
    assert not by_kernel(torch.ones(1, 15, 300))
    assert not by_kernel(torch.ones(1, 257, 257))
    assert not by_kernel(torch.ones(1, 16, 16).double(), torch.float64)
    assert not by_kernel(torch.ones(1, 16, 16), torch.bfloat16)
    assert not by_kernel(torch.ones(1, 16, 16, device="meta"))


def test_triton_is_not_imported_on_a_cpu() -> None:
    code = (
        "import sys, torch; from atlas_bench.memory.newton_schulz import orthogonalise;"
        "orthogonalise(torch.ones(1, 16, 16), 1, 'jordan', torch.float32);"
        "sys.exit('triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize("element", ["fp32", "bf16"])
def test_the_kernel_compiles_without_a_gpu(
    compiled: ModuleType, capability: int, element: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For compute capability 8 and 9: within a GPU's shared memory, and never by TF32."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = compiled._product_kernel
    depth = {"fp32": torch.float32, "bf16": torch.bfloat16}[element]
    constants = {
        "left_column": 1, "right_row": 1, "out_column": 1, "SYMMETRIC": True,
        "ROWS": compiled.TILE, "COLUMNS": compiled.TILE, "INNER": compiled.DEPTH[depth],
    }  # fmt: skip
    kinds = dict.fromkeys(("left", "right", "left_2", "right_2", "add", "out"), f"*{element}")
    kinds |= dict.fromkeys(("alpha", "beta"), "fp32") | dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(
        kernel, {name: kinds.get(name, "i32") for name in kernel.arg_names}, constants
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options={"num_warps": 4})
    assert made.metadata.shared <= 96 * 1024
    assert "tf32" not in made.asm["ptx"]
    assert ("mma" in made.asm["ptx"]) == (element == "bf16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["full", "deficient", "zero"])
def test_the_kernel_on_a_gpu(compiled: ModuleType, kind: str, compute: torch.dtype) -> None:
    """float32 as above; bfloat16 is at most twice as far as the torch form in bfloat16 is."""
    by_torch = torch_form, torch_form_backward
    for shape in [
        (5, 16, 16),
        (5, 17, 40),
        (5, 70, 33),
        (64, 64, 256),
        (3, 1024, 153),
        (3, 256, 256),
    ]:
        x = matrices(*shape, kind)
        assert by_kernel(x.float().cuda(), compute)
        for coefficients, steps in (("jordan", 5), ("polar_express", 2)):
            errors_found = errors(form_of(compiled), x, steps, coefficients, compute, "cuda")
            allowed = FORWARD, BACKWARD
            if compute == torch.bfloat16:
                beside = errors(by_torch, x, steps, coefficients, compute, "cuda")
                allowed = 2 * beside[0], 2 * beside[1]
            assert errors_found[0] < allowed[0], (shape, coefficients)
            assert errors_found[1] < allowed[1], (shape, coefficients)
