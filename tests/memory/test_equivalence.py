"""memory.md tests 2, 3, 4 and 8: the chunk-parallel form equals the recurrence in every use."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from helpers import Case, relative_error, spec_strategy
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_bench.memory import MemorySpec, chunk_memory, recurrent_memory
from atlas_bench.memory.chunkwise import delta, mlp, muon

# Newton-Schulz multiplies rounding by up to 3.4 a step, and gradients flow through many of them.
TOLERANCE = {"gd": 1e-10, "momentum": 1e-10, "muon": 1e-9}
DRAWN_TOLERANCE = 1e-9  # of members drawn at random, some of them near chaos

CHAOTIC = 100  # how much larger a relative change of the inputs is in the results

REPRESENTATIVE = [
    MemorySpec(network="matrix", optimizer="gd", chunk=1, window=1),
    MemorySpec(
        network="matrix",
        optimizer="gd",
        chunk=4,
        window=4,
        features="polynomial",
        bounded_step=True,
    ),
    MemorySpec(network="mlp", optimizer="momentum", rate_inside=True, chunk=4, bounded_step=True),
    MemorySpec(network="mlp", optimizer="momentum", window=6, window_weights="pair", chunk=3),
    MemorySpec(
        network="mlp", optimizer="muon", window=5, update_every=2, chunk=4, features="polynomial"
    ),
    MemorySpec(network="mlp", optimizer="muon", window=4, update_every=4, chunk=4, objective="dot"),
    MemorySpec(network="mlp", optimizer="gd", window=2, update_every=2, chunk=6, bounded_step=True),
    MemorySpec(network="mlp", optimizer="muon", window=3, chunk=3, gate="hard_sigmoid"),
    MemorySpec(network="matrix", optimizer="gd", chunk=1, bounded_step=True),
    MemorySpec(
        network="mlp",
        optimizer="momentum",
        rate_inside=True,
        chunk=4,
        bounded_step=True,
        bounded_by="network",
    ),
    MemorySpec(
        network="gated_mlp",
        window=3,
        update_every=2,
        chunk=6,
        branch_norm=True,
        bounded_step=True,
        bounded_by="network",
    ),
    MemorySpec(network="matrix", objective="dot", retain="channel", chunk=4),
    MemorySpec(
        network="matrix", optimizer="momentum", retain="channel", window=3, update_every=2, chunk=4
    ),
    MemorySpec(
        network="gated_mlp", optimizer="muon", window=4, update_every=2, chunk=4, branch_norm=True
    ),
    MemorySpec(network="mlp", optimizer="momentum", rate_inside=True, chunk=4, branch_norm=True),
    MemorySpec(network="matrix", optimizer="muon", rate_inside=True, window=2, chunk=2),
    MemorySpec(network="gated_mlp", window=3, chunk=4, features="sketch", sketch_size=8),
    MemorySpec(  # TTT-Linear
        network="matrix",
        retain="none",
        branch_norm=True,
        branch_norm_affine=True,
        chunk=4,
        bounded_step=True,
        bounded_by="network",
    ),
    MemorySpec(  # Yaad, bounded
        objective="huber",
        branch_norm=True,
        branch_norm_affine=True,
        chunk=4,
        bounded_step=True,
        bounded_by="network",
    ),
    MemorySpec(  # Moneta
        objective="lp", retention="lq", branch_norm=True, branch_norm_affine=True, chunk=4
    ),
    MemorySpec(  # Memora, with momentum and intervals
        retention="kl", branch_norm=True, optimizer="momentum", window=3, update_every=2, chunk=4
    ),
]


def assert_same(case: Case, result, expected, tolerance: float) -> None:
    (y, state), (y_expected, state_expected) = result, expected
    assert relative_error(y, y_expected) < tolerance
    for tensor, right in zip(state.tensors(), state_expected.tensors(), strict=True):
        assert tensor.shape == right.shape
        assert relative_error(tensor, right, scale=1e-6) < tolerance
    gradients, right = case.gradients(y), case.gradients(y_expected)
    largest = max(grad.norm().item() for grad in right.values())
    for name, grad in gradients.items():
        # A gradient that cancels to rounding (weights under muon) is compared on the common scale.
        assert relative_error(grad, right[name], scale=1e-3 * largest) < tolerance, name


def amplification(case: Case, expected, change: float = 1e-10) -> float:
    """How much larger a relative change of every input is in the reference's output and state.

    Members in which it is large are chaotic: two ways of rounding part, whoever computes them.
    """
    generator = torch.Generator().manual_seed(2)

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.detach() * (1 + change * torch.randn(x.shape, generator=generator, dtype=x.dtype))

    changed = copy.copy(case)
    changed.inputs = {name: moved(tensor) for name, tensor in case.inputs.items()}
    y, state = changed.run(recurrent_memory)
    pairs = zip([y, *state.tensors()], [expected[0], *expected[1].tensors()], strict=True)
    return max(relative_error(result, right, scale=1e-6) for result, right in pairs) / change


@given(spec=spec_strategy(), length=st.integers(1, 14), value_dim=st.sampled_from([3, 4]))
def test_chunked_equals_reference(spec: MemorySpec, length: int, value_dim: int) -> None:
    case = Case(spec, length=length, value_dim=value_dim)
    expected = case.run(recurrent_memory)
    assume(amplification(case, expected) < CHAOTIC)
    assert_same(case, case.run(chunk_memory), expected, DRAWN_TOLERANCE)


@pytest.mark.parametrize("spec", [s for s in REPRESENTATIVE if s.optimizer == "muon"], ids=str)
def test_recomputing_in_the_backward_pass_changes_nothing(
    spec: MemorySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(spec, length=13)
    kept = case.run(chunk_memory)
    monkeypatch.setattr(muon, "KEPT_BYTES", 0)
    recomputed = case.run(chunk_memory)
    assert "_ScanBackward" in _graph_nodes(recomputed[0].grad_fn)
    assert "_ScanBackward" not in _graph_nodes(kept[0].grad_fn)
    assert_same(case, recomputed, kept, 1e-14)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize(
    "spec", [s for s in REPRESENTATIVE if s.network == "mlp" and s.optimizer != "muon"], ids=str
)
def test_blocks_of_chunks_change_nothing(
    spec: MemorySpec, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``blocks`` chunks are read together; the last block is shorter, in training and without."""
    case = Case(spec, length=7 * spec.chunk + 1)
    whole = case.run(chunk_memory)
    state = sum(w.numel() for w in whole[1].weights.values()) * (1 + spec.has_momentum)
    monkeypatch.setattr(mlp, "BLOCK_BYTES", blocks * 8 * state)
    assert_same(case, case.run(chunk_memory), whole, 1e-12)
    with torch.no_grad():
        assert relative_error(case.run(chunk_memory)[0], whole[0]) < 1e-12


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("retain", ["none", "scalar"])
def test_the_delta_rule_in_blocks(
    bounded: bool, retain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The WY form over several blocks and a part of one; rates up to 3, keep-rates of 0."""
    monkeypatch.setattr(delta, "BLOCK", 4)
    spec = MemorySpec(network="matrix", chunk=1, retain=retain, bounded_step=bounded)
    case = Case(spec, length=14, rate=3.0 if bounded else 1.0)
    with torch.no_grad():
        case.inputs["retain"][:, 6] = 0.0
    assert_same(case, case.run(chunk_memory), case.run(recurrent_memory), 1e-10)


def _graph_nodes(last) -> set[str]:
    """The names of all autograd nodes behind ``last``."""
    seen, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


@given(spec=spec_strategy(), cuts=st.lists(st.integers(0, 14), max_size=3))
def test_any_split_into_calls_is_the_same(spec: MemorySpec, cuts: list[int]) -> None:
    case = Case(spec, length=14)
    state, parts = None, []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 14], strict=True):
        y, state = case.run(chunk_memory, start, end, state)
        parts.append(y)
    whole = case.run(recurrent_memory)
    assume(amplification(case, whole) < CHAOTIC)
    assert_same(case, (torch.cat(parts, 1), state), whole, DRAWN_TOLERANCE)


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("form", [recurrent_memory, chunk_memory])
def test_token_by_token_is_the_same(spec: MemorySpec, form) -> None:
    case = Case(spec, length=13)
    state, parts = None, []
    for t in range(13):
        y, state = case.run(form, t, t + 1, state)
        parts.append(y)
    assert_same(
        case, (torch.cat(parts, 1), state), case.run(recurrent_memory), TOLERANCE[spec.optimizer]
    )


@given(spec=spec_strategy())
def test_random_members_keep_to_themselves(spec: MemorySpec) -> None:
    """Tests 4 and 8 for random members: causal, apart in the batch, the same in every mode."""
    assert_nothing_sees_the_future(spec, chunk_memory)
    assert_batch_elements_are_apart(spec)
    assert_learns_alike_with_and_without_autograd(spec)


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
@pytest.mark.parametrize("form", [recurrent_memory, chunk_memory])
def test_nothing_sees_the_future_and_everything_matters(spec: MemorySpec, form) -> None:
    case, y = assert_nothing_sees_the_future(spec, form)
    for name, grad in case.gradients(y).items():
        if name not in _unused(spec):
            assert grad.abs().max() > 1e-12, f"{name} gets no gradient"


def _unused(spec: MemorySpec) -> set[str]:
    unused = {"momentum"} if spec.optimizer == "gd" else set()
    unused |= {"rate"} if spec.rate_inside else set()
    unused |= set() if spec.objective == "huber" else {"threshold"}
    return unused | ({"retain"} if spec.retain == "none" else set())


def assert_nothing_sees_the_future(spec: MemorySpec, form) -> tuple[Case, torch.Tensor]:
    length, moved = 12, 5
    case = Case(spec, length=length)
    y, _ = case.run(form)
    reached = False
    names = {"q", "k", "v", "retain", "rate", "momentum", "weight", "threshold"}
    for name in sorted(names - _unused(spec)):
        changed = Case(spec, length=length)
        with torch.no_grad():
            changed.inputs[name][:, moved] *= 0.5
        y_changed, _ = changed.run(form)
        difference = (y_changed - y).flatten(2).abs().amax((0, 2))
        # Not 0: a rate that opens inside a chunk changes by which products the chunk is read.
        assert difference[:moved].max() < 1e-12, f"{name} leaked into the past"
        reached = reached or difference[moved:].max() > 1e-9
        if spec in REPRESENTATIVE:  # a random member may have closed a gate there
            assert difference[moved:].max() > 1e-9, f"{name} has no effect"
    assert reached, "no input has an effect"
    return case, y


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
def test_batch_elements_do_not_see_each_other(spec: MemorySpec) -> None:
    assert_batch_elements_are_apart(spec)


def assert_batch_elements_are_apart(spec: MemorySpec) -> None:
    case, other = Case(spec, length=9), Case(spec, length=9)
    with torch.no_grad():
        for tensor in other.inputs.values():
            tensor[1] = tensor[1].flip(0)
    y, y_other = case.run(chunk_memory)[0], other.run(chunk_memory)[0]
    # Not to the bit: which heads are computed together depends on which of them write nothing.
    torch.testing.assert_close(y[0], y_other[0], rtol=0, atol=1e-12)
    assert not torch.allclose(y[1], y_other[1])


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
def test_learns_alike_with_and_without_autograd(spec: MemorySpec) -> None:
    assert_learns_alike_with_and_without_autograd(spec)


def assert_learns_alike_with_and_without_autograd(spec: MemorySpec) -> None:
    case = Case(spec, length=9)
    y, _ = case.run(chunk_memory)
    with torch.no_grad():
        assert torch.equal(case.run(chunk_memory)[0], y)
    with torch.inference_mode():
        assert torch.equal(case.run(chunk_memory)[0], y)


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
def test_state_is_float32_in_lower_precision_and_of_constant_size(spec: MemorySpec) -> None:
    case = Case(spec, length=24)
    inputs = {name: tensor.detach().bfloat16() for name, tensor in case.inputs.items()}
    case.inputs = inputs
    case.weights = {name: w.detach().float() for name, w in case.weights.items()}
    case.scales = None if case.scales is None else case.scales.detach().float()
    _, state = case.run(chunk_memory)
    assert all(
        w.dtype == torch.float32 for w in [*state.weights.values(), *state.momentum.values()]
    )
    _, later = case.run(chunk_memory, state=state)
    assert later.bytes == state.bytes


@pytest.mark.parametrize("spec", [s for s in REPRESENTATIVE if s.is_bounded], ids=str)
def test_both_forms_bound_the_step_in_lower_precision(spec: MemorySpec) -> None:
    """The gates are float32 beside keys in bfloat16."""
    case = Case(spec, length=9)
    for name, tensor in case.inputs.items():
        case.inputs[name] = tensor.detach().bfloat16() if name in "qkv" else tensor.detach().float()
    case.weights = {name: weight.detach().float() for name, weight in case.weights.items()}
    case.scales = None if case.scales is None else case.scales.detach().float()
    for form in (recurrent_memory, chunk_memory):
        y, state = case.run(form)
        assert y.dtype == torch.bfloat16
        assert y.isfinite().all()
        assert all(weight.dtype == torch.float32 for weight in state.weights.values())


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
def test_keep_rates_near_1_survive_lower_precision(spec: MemorySpec) -> None:
    """1 - 2^-10 over 256 tokens keeps 78 %; rounded to bfloat16 it would keep everything."""
    retaining = replace(spec, retain="channel" if spec.retain == "channel" else "scalar")
    case = Case(retaining, length=256)
    case.inputs["retain"] = torch.full_like(case.inputs["retain"], 1 - 2**-10)
    case.inputs["rate"] = torch.full_like(case.inputs["rate"], -9.0 if "hard" in spec.gate else 0.0)
    case.inputs["weight"] = torch.zeros_like(case.inputs["weight"])
    for name in ("q", "k", "v"):
        case.inputs[name] = case.inputs[name].detach().bfloat16()
    case.weights = {name: w.detach().float() for name, w in case.weights.items()}
    case.scales = None if case.scales is None else case.scales.detach().float()
    y, state = case.run(chunk_memory)
    assert y.dtype == torch.bfloat16
    for name, weight in state.weights.items():
        kept = (1 - 2**-10) ** 256
        torch.testing.assert_close(
            weight, kept * case.weights[name].expand_as(weight), rtol=1e-3, atol=0
        )


def test_a_gpu_reads_more_chunks_at_once() -> None:
    sizes = mlp._Sizes(groups=2, chunks=16, parts=1, values=512, hidden=512)
    cpu, gpu = (torch.empty(2, 512, 512, device=device) for device in ("cpu", "meta"))
    assert len(sizes.blocks(cpu, cpu)) == 16
    assert len(sizes.blocks(gpu, gpu)) == 1


class _NoCopies(TorchDispatchMode):
    """Fails on a tensor of the CPU: a copy of it to a GPU would wait for all of the GPU's work."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for argument in args:
            if isinstance(argument, Tensor):
                assert argument.is_meta or argument.dim() == 0, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", REPRESENTATIVE, ids=str)
def test_a_call_copies_nothing_to_its_device(spec: MemorySpec) -> None:
    """From the second call on; tensors without numbers stand for those of a GPU."""
    case = Case(spec, length=24)
    case.inputs = {name: tensor.detach().to("meta") for name, tensor in case.inputs.items()}
    case.weights = {name: weight.detach().to("meta") for name, weight in case.weights.items()}
    case.norm = {name: tensor.detach().to("meta") for name, tensor in case.norm.items()}
    case.scales = None if case.scales is None else case.scales.detach().to("meta")
    case.tables = None if case.tables is None else case.tables.to("meta")
    _, state = case.run(chunk_memory, 0, 11)
    with _NoCopies():
        y, _ = case.run(chunk_memory, 11, 24, state)
    assert y.is_meta
