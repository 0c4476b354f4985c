"""The contract of mixers: a new one is a class and one line of the registry."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from atlas_bench.models.build import build_model
from atlas_bench.models.checks import check_settings
from atlas_bench.models.mixer import MIXERS, Mixer, TrainingStage, mixer_class
from atlas_bench.models.packing import packed_forward
from atlas_bench.models.settings import (
    AttentionSettings,
    MemorySettings,
    ModelSettings,
    ScaleSettings,
)

SCALE = ScaleSettings(width=16, layers=2, heads=2)


@dataclass(frozen=True)
class Sum:
    """The sum of the past inputs, (B, 1, width)."""

    total: Tensor


class RunningMean(Mixer):
    """The decayed mean of the inputs so far; it uses everything that the contract offers."""

    def __init__(self, model: ModelSettings, scale: ScaleSettings) -> None:
        super().__init__()
        self.width = scale.width
        self.gain = nn.Parameter(torch.zeros(scale.width))
        self.out = nn.Linear(scale.width, scale.width, bias=False)
        self.stages: list[TrainingStage | None] = []

    @classmethod
    def check(cls, model: ModelSettings, scale: ScaleSettings) -> None:
        if scale.width % 4:
            raise ValueError(f"scale.width={scale.width} must be a multiple of 4 for RunningMean")

    def initialise(self) -> None:
        nn.init.ones_(self.gain)

    def init_state(self, batch: int) -> Sum:
        return Sum(self.gain.new_zeros(batch, 1, self.width))

    def state_bytes(self, batch: int, length: int) -> int:
        return 4 * batch * self.width

    def forward(self, x: Tensor, state: Sum) -> tuple[Tensor, Sum]:
        total = state.total + x.cumsum(1)
        self.observed = {"size": x.square().mean(-1)}
        return self.out(self.gain * total), Sum(total[:, -1:])

    def enter_stage(self, stage: TrainingStage | None) -> None:
        self.stages.append(stage)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        return {"size": self.observed["size"].mean()}

    def metrics(self, state: Sum | None) -> dict[str, Tensor]:
        return {} if state is None else {"sum_norm": state.total.norm()}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ModelSettings:
    """A model of the new mixer, registered with one line."""
    monkeypatch.setitem(MIXERS, "running_mean", f"{__name__}:RunningMean")
    return ModelSettings(name="mean", mixers=["running_mean"])


def tokens() -> Tensor:
    return torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(0))


def test_a_new_mixer_is_initialised(settings: ModelSettings) -> None:
    model = build_model(settings, SCALE, vocab_size=32, seed=0)
    assert [type(mixer) for mixer in model.mixers] == [mixer_class("running_mean")] * 2
    assert all(mixer.gain.eq(1).all() for mixer in model.mixers)


def test_a_new_mixer_without_a_way_to_size_its_state_is_refused_by_match_state(
    settings: ModelSettings,
) -> None:
    settings.match = "state"
    with pytest.raises(ValueError, match="model.match=state cannot match mean: its mixer Running"):
        build_model(settings, SCALE, vocab_size=32, seed=0)
    settings.mixers = ["neural_memory", "running_mean"]
    with pytest.raises(ValueError, match="model.match=state cannot match mean: its mixer Running"):
        build_model(settings, SCALE, vocab_size=32, seed=0)


def test_attention_beside_a_memory_keeps_its_window_when_states_are_matched() -> None:
    attention = AttentionSettings(window=5)
    both = ModelSettings(mixers=["neural_memory", "attention"], attention=attention, match="state")
    alone = ModelSettings(mixers=["attention"], attention=attention, match="state")
    assert build_model(both, SCALE, vocab_size=32, seed=0).mixers[1].window == 5
    windows = [m.window for m in build_model(alone, SCALE, vocab_size=32, seed=0).mixers]
    assert windows == [9, 9]  # 8 keys and 8 values of the past, 16 numbers each


def test_memory_as_context_alone_leaves_out_the_convolution_of_the_scale() -> None:
    scale = replace(SCALE, attention_convolution=True)
    settings = ModelSettings(mixers=["attention", "memory_as_context"], match="none")
    attention, hybrid = build_model(settings, scale, vocab_size=32, seed=0).mixers
    assert attention.convolution is not None
    assert hybrid.attention.convolution is None


def test_a_new_mixer_checks_its_own_settings(settings: ModelSettings) -> None:
    with pytest.raises(ValueError, match="scale.width=18 must be a multiple of 4"):
        check_settings(settings, ScaleSettings(width=18, heads=3))


def test_a_new_mixer_is_cut_into_calls_and_told_its_stage(settings: ModelSettings) -> None:
    model = build_model(settings, SCALE, vocab_size=32, seed=0)
    whole, state = model(tokens())
    first, middle = model(tokens()[:, :5])
    second, end = model(tokens()[:, 5:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end[1].total, state[1].total)
    assert model.state_bytes(3, 10**6) == 2 * 4 * 3 * 16
    model.enter_stage(None)
    assert [mixer.stages for mixer in model.mixers] == [[None], [None]]


def test_losses_and_metrics_are_means_over_the_layers_that_have_them(
    settings: ModelSettings,
) -> None:
    settings.mixers = ["attention", "running_mean", "running_mean"]
    scale = ScaleSettings(width=16, layers=3, heads=2)
    model = build_model(settings, scale, vocab_size=32, seed=0).train()
    _, state = model(tokens())
    sizes = [mixer.observed["size"] for mixer in model.mixers[1:]]
    expected = torch.stack([size.mean() for size in sizes]).mean()
    assert torch.equal(model.auxiliary_losses()["size"], expected)
    assert model.metrics(state).keys() == {"sum_norm"}
    assert model.metrics(None) == {}
    packed_forward(model, tokens(), torch.zeros(2, 12, dtype=torch.bool).numpy())
    for mixer, size in zip(model.mixers[1:], sizes, strict=True):
        torch.testing.assert_close(mixer.observed["size"], size)


def test_every_registered_mixer_is_a_mixer() -> None:
    assert all(issubclass(mixer_class(name), Mixer) for name in MIXERS)


def test_no_gradient_goes_around_the_hold_of_memory_as_context() -> None:
    """Trust A7: what is retrieved went around it, and 7,168 tokens had an infinite gradient."""
    memory = MemorySettings(chunk=8, bounded_step=True)
    settings = ModelSettings(mixers=["memory_as_context"], segment=16, memory=memory, match="none")
    mixer, *_ = build_model(settings, SCALE, vocab_size=32, seed=0).mixers
    with torch.no_grad():
        mixer.memory.convolution[:, :-1] = 0  # the other way from a segment to the one before
    x = torch.randn(1, 48, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, _ = mixer(x, mixer.init_state(1))
    (1e20 * y[:, -16:].sum()).backward()
    first, last = x.grad[:, :16].abs().max(), x.grad[:, -16:].abs().max()
    assert last > 1e18
    assert 0 < first < 1e9


def test_memory_as_gate_normalises_what_attention_gives() -> None:
    """Titans normalises both parts of Eq 28: the size of attention's values does not count."""
    settings = ModelSettings(
        match="none", mixers=["memory_as_gate"], attention=AttentionSettings(norm=True)
    )
    model = build_model(settings, SCALE, vocab_size=16, seed=0).double()
    plain = build_model(
        replace(settings, attention=AttentionSettings(norm=False)), SCALE, vocab_size=16, seed=0
    ).double()
    tokens = torch.arange(12)[None] % 16
    for each, same in ((model, True), (plain, False)):
        before = each(tokens)[0]
        with torch.no_grad():
            for block in each.blocks:
                block.mixer.attention.qkv.weight[-SCALE.width :] *= 100
        assert torch.allclose(each(tokens)[0], before, rtol=1e-3) == same


def test_queries_of_memory_as_context_start_as_the_keys_of_its_memory() -> None:
    settings = ModelSettings(
        match="none", mixers=["memory_as_context"], segment=16, query_convolution=True
    )
    mixer = build_model(settings, SCALE, vocab_size=16, seed=0).blocks[0].mixer
    assert torch.equal(mixer.query_convolution, mixer.memory.convolution[: len(mixer.query.weight)])
    _, keys, *_ = mixer.memory.projections.weight.split(mixer.memory.splits)
    assert torch.equal(mixer.query.weight, keys)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ModelSettings(mixers=["delta_ttt"], memory=MemorySettings(network="mlp", chunk=1)),
            "mixers=.delta_ttt. is two delta rules: it needs in model.memory network=matrix",
        ),
        (
            ModelSettings(mixers=["cached_memory"], segment=24, memory=MemorySettings(chunk=16)),
            "model.segment=24 is not a multiple of model.memory.chunk=16",
        ),
    ],
)
def test_memories_that_cannot_be_built_are_refused(settings: ModelSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(settings, SCALE)


@pytest.mark.parametrize(
    ("mixer", "memory"),
    [
        ("delta_ttt", MemorySettings(network="matrix", chunk=1)),
        ("cached_memory", MemorySettings(network="matrix", chunk=1)),
    ],
)
def test_the_matched_state_counts_every_matrix(mixer: str, memory: MemorySettings) -> None:
    scale = replace(SCALE, width=32, heads=4)
    settings = ModelSettings(mixers=[mixer], match="state", memory=memory)
    model = build_model(settings, scale, vocab_size=32, seed=0)
    numbers = sum(weight.numel() for weight in model.mixers[0].initial.values())
    assert numbers == pytest.approx(scale.width**2, rel=0.1)
