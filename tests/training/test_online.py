"""Online learning: networks side by side learn as each would alone, token by token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from atlas_bench.artifacts.checkpoint import newest_undamaged
from atlas_bench.interrupts import Interrupted
from atlas_bench.seeding import generator
from atlas_bench.tasks.learnability.online import OPTIMIZERS, LearnerSettings, OnlineSettings
from atlas_bench.training.errors import TrainingError
from atlas_bench.training.online import OnlineLearner, OnlineTraining, build_learner

SEQUENCES, TOKENS, DIMENSION = 3, 40, 4
PLAIN = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}


def learner(optimizer: str = "adam", layers: int = 2, rate: float = 1e-2) -> OnlineLearner:
    settings = LearnerSettings(
        layers=layers, expansion=2, optimizer=optimizer, learning_rate=rate, activation="silu"
    )
    draws = [generator("test", number) for number in range(SEQUENCES)]
    return OnlineLearner(settings, DIMENSION, draws).double()


def pairs() -> tuple[Tensor, Tensor]:
    rng = generator("pairs")
    shape = (2, SEQUENCES, TOKENS, DIMENSION)
    return tuple(torch.from_numpy(rng.standard_normal(shape)).unbind())


def losses_alone(networks: OnlineLearner, inputs: Tensor, targets: Tensor) -> list[list[float]]:
    """One network after the other, with PyTorch's own layers and optimizers."""
    settings = networks.settings
    losses = []
    for number in range(SEQUENCES):
        layers: list[nn.Module] = []
        for weight in networks.weights:
            layer = nn.Linear(*weight.shape[1:], bias=False, dtype=torch.float64)
            layer.weight.data = weight[number].detach().T.clone()
            layers += [layer, nn.SiLU()]
        network = nn.Sequential(*layers[:-1])
        optimizer = PLAIN[settings.optimizer](network.parameters(), lr=settings.learning_rate)
        losses.append([])
        for i, o in zip(inputs[number], targets[number], strict=True):
            loss = (network(i) - o).norm() ** 2 / o.norm() ** 2
            losses[-1].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layers", [1, 3])
def test_each_learns_as_it_would_alone(optimizer: str, layers: int, tmp_path: Path) -> None:
    inputs, targets = pairs()
    networks = learner(optimizer, layers)
    expected = torch.tensor(losses_alone(networks, inputs, targets), dtype=torch.float64)
    losses = OnlineTraining(networks, inputs, targets, folder=tmp_path).run()
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)
    assert not torch.allclose(losses[0], losses[1])


def test_a_loss_does_not_depend_on_later_tokens(tmp_path: Path) -> None:
    inputs, targets = pairs()
    whole = OnlineTraining(learner(), inputs, targets, folder=tmp_path).run().clone()
    for changed in (inputs, targets):
        changed[:, 25:] = 7.0
    other = OnlineTraining(learner(), inputs, targets, folder=tmp_path).run()
    assert torch.equal(whole[:, :25], other[:, :25])
    assert not torch.isclose(whole[:, 25:], other[:, 25:]).any()


def test_weights_are_drawn_for_their_inputs_and_by_both_seeds() -> None:
    settings = OnlineSettings(dimension=64, learner=LearnerSettings(layers=2, expansion=4))
    networks = build_learner(settings, 0, 2)
    shapes = [tuple(weight.shape) for weight in networks.weights]
    assert shapes == [(2, 64, 256), (2, 256, 256), (2, 256, 64)]
    for weight in networks.weights:
        assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
    first = build_learner(settings, 0, 1).weights[0]
    assert torch.equal(first[0], networks.weights[0][0])
    other_task = OnlineSettings(dimension=64, seed=1, learner=settings.learner)
    for other in (build_learner(settings, 1, 1), build_learner(other_task, 0, 1)):
        assert not torch.isclose(first, other.weights[0]).any(dim=-1).all()
    # float32 weights, and two moments for Adam, none for SGD
    assert networks.state_bytes(1, 10) == 4 * 3 * (2 * 64 * 256 + 256 * 256)
    assert learner("sgd").state_bytes(2, 10) == 2 * 4 * (2 * 4 * 8 + 8 * 8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_resumes_where_it_was_stopped(optimizer: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    expected = OnlineTraining(learner(optimizer), *pairs(), folder=whole).run()
    first = OnlineTraining(learner(optimizer), *pairs(), folder=cut)
    first.should_stop = lambda: first.tokens == 22
    with pytest.raises(Interrupted):
        first.run()
    with (cut / "metrics.jsonl").open("a") as file:  # a kill may leave more than a checkpoint knows
        file.write('{"step": 32, "loss": 0.0}\n{"step"')
    second = OnlineTraining(learner(optimizer, rate=1e-2), *pairs(), folder=cut)
    second.resume(newest_undamaged(cut / "checkpoints"))
    assert second.tokens == 22
    assert torch.equal(second.run(), expected)
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, cut)
    ]
    losses = [[(line["step"], line["loss"]) for line in each] for each in lines]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [16, 32, 40]
    assert losses[0][2][1] == pytest.approx(float(expected[:, 32:].mean()))


def test_a_loss_that_is_not_finite_ends_in_a_sentence(tmp_path: Path) -> None:
    inputs, targets = pairs()
    with pytest.raises(
        TrainingError,
        match=r"^a loss of tokens \d+ to \d+ is not finite with task\.learner\.optimizer=sgd; "
        r"lower task\.learner\.learning_rate=1000000\.0$",
    ):
        OnlineTraining(learner("sgd", rate=1e6), inputs, targets, folder=tmp_path).run()
