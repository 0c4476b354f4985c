"""The mixers around flash-linear-attention: the layers around its documented recurrences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from library_recurrences import KERNELS, library  # noqa: F401
from presets import NEED_GPU, assert_every_parameter_learns
from torch import Tensor

from atlas_bench.memory import fla
from atlas_bench.models.accounting import account
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.models.mixer import MIXERS, mixer_class
from atlas_bench.models.settings import ModelSettings, ScaleSettings

LIBRARY_MIXERS = [name for name in MIXERS if mixer_class(name).unavailable_reason("cpu")]
SCALE = ScaleSettings(width=32, layers=2, heads=2)
LENGTH = 12
DEVICE = "cuda"


def settings(name: str) -> ModelSettings:
    return ModelSettings(name=name, mixers=[name])


def build(name: str, seed: int = 0) -> LanguageModel:
    model = replace(settings(name), match="none")
    return build_model(model, SCALE, vocab_size=64, seed=seed).double().eval()


def tokens() -> Tensor:
    return torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def test_every_mixer_is_a_preset() -> None:
    assert sorted([*LIBRARY_MIXERS, "gated_deltanet_h2"]) == sorted(NEED_GPU)


@pytest.mark.parametrize("name", LIBRARY_MIXERS)
@pytest.mark.parametrize("cuts", [[5, 6], list(range(1, LENGTH))], ids=["parts", "tokens"])
def test_any_split_gives_the_same(name: str, cuts: list[int], library) -> None:  # noqa: F811
    model = build(name)
    whole, end = model(tokens())
    with torch.inference_mode():
        state, parts = model.init_state(2), []
        for start, stop in zip([0, *cuts], [*cuts, LENGTH], strict=True):
            before = [x.clone() for layer in state for x in layer.recurrent]
            hidden, after = model(tokens()[:, start:stop], state)
            kept = [x for layer in state for x in layer.recurrent]
            assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
            parts.append(hidden)
            state = after
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    for layer, whole_layer in zip(state, end, strict=True):
        for recurrent, expected in zip(layer.recurrent, whole_layer.recurrent, strict=True):
            torch.testing.assert_close(recurrent, expected)
    held = sum(4 * x.numel() for layer in state for x in (layer.tail, *layer.recurrent))
    assert held == model.state_bytes(2, LENGTH) == model.state_bytes(2, 10**7)


@pytest.mark.parametrize("name", LIBRARY_MIXERS)
def test_causal_and_every_parameter_learns(name: str, library) -> None:  # noqa: F811
    model = build(name)
    hidden = assert_every_parameter_learns(model, tokens())
    changed = tokens()
    changed[0, 7] = (changed[0, 7] + 1) % 64
    with torch.no_grad():
        after = model(changed)[0]
    torch.testing.assert_close(hidden[0, :7], after[0, :7], rtol=0, atol=1e-12)
    assert (hidden[0, 7:] - after[0, 7:]).abs().amax(-1).gt(1e-9).any()
    torch.testing.assert_close(hidden[1], after[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LIBRARY_MIXERS)
@pytest.mark.parametrize(
    "scale", [ScaleSettings(), ScaleSettings(width=1024, layers=4, heads=16)], ids=["tiny", "wide"]
)
def test_counted_and_matched_without_the_library(name: str, scale: ScaleSettings) -> None:
    """Parameters are the Transformer's; operations are at least those of the linear maps."""
    costs = account(settings(name), scale, vocab_size=32000, tokens=64)
    with torch.device("meta"):
        transformer = build_model(
            ModelSettings(name="transformer", mixers=["attention"]), scale, vocab_size=32000, seed=0
        )
        model = build_model(settings(name), scale, vocab_size=32000, seed=0)
    assert costs.total == count_parameters(model)
    assert abs(costs.total / count_parameters(transformer) - 1) < 0.01
    assert not costs.grows
    assert costs.forward_operations > 2 * (costs.parameters["mixers"] + 32000 * scale.width)
    assert costs.training_operations > 2 * costs.forward_operations


def test_one_step_of_each_by_hand(library) -> None:  # noqa: F811
    """A single token, for which every recurrence is a product or two."""
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for name in LIBRARY_MIXERS:
            mixer = build(name).blocks[0].mixer
            projected = mixer.projections(x)[0, 0].split([*mixer.convolved, *mixer.plain])
            q, k, v = (
                torch.nn.functional.silu(0.5 * part) if i < len(mixer.convolved) else part
                for i, part in enumerate(projected[:3])
            )
            _, state = mixer(x, mixer.init_state(1))
            expected = torch.stack([_written(name, mixer, x, k, v, projected)[h] for h in range(2)])
            torch.testing.assert_close(state.recurrent[-1][0, :2], expected, msg=name)


def _written(name: str, mixer, x: Tensor, k: Tensor, v: Tensor, projected: tuple) -> Tensor:
    """b k v' of every head (H, K, V); dt B x' for Mamba-2."""
    if name == "mamba2":
        step = torch.nn.functional.softplus(projected[4] + mixer.step_bias)
        return step[:, None, None] * k[:, None] * v.unflatten(0, (mixer.heads, -1))[:, None]
    k = torch.nn.functional.normalize(k.unflatten(0, (2, -1)), dim=-1)
    beta = projected[5] if name == "kda" else mixer.opening(x)[0, 0, 2:]
    return beta.sigmoid()[:, None, None] * k[..., None] * v.unflatten(0, (2, -1))[:, None]


def test_what_cannot_be_built_says_so() -> None:
    with pytest.raises(ValueError, match="model.match=state cannot match kda"):
        build_model(replace(settings("kda"), match="state"), SCALE, vocab_size=64, seed=0)
    with pytest.raises(ValueError, match="heads of size 256, and the kernel of MesaNet"):
        build_model(settings("mesa_net"), ScaleSettings(width=2048, heads=8), vocab_size=64, seed=0)


def run(name: str, kernel: Callable[[str], Callable], dtype: torch.dtype) -> list[Tensor]:
    """Output, states and the gradients of all parameters of a layer whose past is not empty."""
    torch.manual_seed(0)
    model = build_model(
        replace(settings(name), match="none"), ScaleSettings(width=128, layers=1, heads=4),
        vocab_size=64, seed=0,
    )  # fmt: skip
    mixer = model.blocks[0].mixer.to(DEVICE)
    x = torch.randn(2, 150, 128, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fla, "_kernel", kernel)
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            first, state = mixer(x[:, :70], mixer.init_state(2))
            second, state = mixer(x[:, 70:], state)
    y = torch.cat([first, second], 1).float()
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    (y * weights).sum().backward()
    return [y.detach(), *(s.detach() for s in state.recurrent)] + [
        p.grad for p in mixer.parameters()
    ]


@pytest.mark.skipif(
    fla.unavailable_reason() is not None,
    reason=f"flash-linear-attention, {fla.unavailable_reason()}",
)
@pytest.mark.parametrize("name", LIBRARY_MIXERS)
def test_the_kernels_equal_the_recurrences(name: str) -> None:
    """A layer in bfloat16 on the kernels against float32 on the plain recurrences."""
    results = run(name, fla._kernel, torch.bfloat16)
    expected = run(name, KERNELS.__getitem__, torch.float32)
    for tensor, plain in zip(results, expected, strict=True):
        error = (tensor.float() - plain).norm() / plain.norm().clamp_min(1e-6)
        assert error < 5e-2, name
