"""Learning rates by hand, averages of weights, optimisers by name, and sharpness-aware steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskprep.base import UsageError
from masktrain.config.sections import SCHEDULES, OptimConfig, ScheduleConfig
from masktrain.train.freezing import stages
from masktrain.train.model import build
from masktrain.train.optim import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    plateau_drops,
    sam_perturb,
    sam_restore,
    set_learning_rate,
)


def rates(steps: int = 100, drops: int = 0, **settings: Any) -> list[float]:
    config = ScheduleConfig(**settings)
    return [learning_rate(i, steps, 2.0, config, drops) for i in range(steps)]


def test_cosine_warms_up_and_falls_to_zero() -> None:
    found = rates(warmup=0.1)
    assert np.argmax(found) == 10 and found[10] == 2.0
    assert all(np.diff(found[:11]) > 0) and all(np.diff(found[10:]) < 0)
    assert 0 < found[0] < 0.2 and 0 < found[-1] < 0.002
    assert found[55] == pytest.approx(1.0)
    assert min(rates(warmup=0.0, floor=0.25)) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({"kind": "constant"}, {0: 2.0, 50: 2.0, 99: 2.0}),
        ({"kind": "step", "stretches": 4, "gamma": 0.5}, {24: 2.0, 25: 1.0, 50: 0.5, 99: 0.25}),
        ({"kind": "multistep", "milestones": (0.3, 0.8)}, {29: 2.0, 30: 0.2, 79: 0.2, 80: 0.02}),
        ({"kind": "exponential", "gamma": 0.01}, {0: 2.0, 50: 0.2}),
        ({"kind": "cyclic", "cycles": 2, "floor": 0.1}, {0: 2.0, 25: 0.2, 50: 2.0, 75: 0.2}),
        ({"kind": "restarts", "cycles": 2, "floor": 0.1}, {0: 2.0, 25: 1.1, 50: 2.0, 75: 1.1}),
        ({"kind": "onecycle", "warmup": 0.2, "floor": 0.001}, {0: 0.08, 10: 1.04, 20: 2.0, 60: 1.001}),
        ({"kind": "step", "stretches": 4, "gamma": 0.1, "floor": 0.05}, {99: 0.1}),
    ],
)
def test_by_hand(settings: dict[str, Any], wanted: dict[int, float]) -> None:
    found = rates(**{"warmup": 0.0} | settings)
    assert {i: found[i] for i in wanted} == pytest.approx(wanted)


def test_plateau_falls_when_the_score_stands_still() -> None:
    assert plateau_drops([0.1, 0.2, 0.3], 1) == 0
    assert plateau_drops([0.3, 0.2, 0.2], 1) == 1
    assert plateau_drops([0.3, 0.2, 0.2, 0.2, 0.2], 1) == 2
    assert plateau_drops([0.3, 0.2, 0.4, 0.3], 1) == 0
    assert plateau_drops([], 0) == 0
    assert rates(kind="plateau", warmup=0.0, drops=2)[50] == pytest.approx(0.02)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("steps, warmup", [(1, 0.0), (1, 1.0), (3, 1.0), (2, 0.5), (40, 0.3)])
def test_every_rate_is_sane(kind: str, steps: int, warmup: float) -> None:
    found = rates(steps, kind=kind, warmup=warmup)
    assert all(0 < r <= 2 for r in found) and (steps < 9 or max(found) == pytest.approx(2.0, rel=0.2))


def test_the_average_by_hand() -> None:
    net = nn.BatchNorm1d(1)
    average = WeightAverage(net, 0.3)
    weight, mean = 1.0, 0.0
    for step in range(5):
        net.weight.data.fill_(step * 2.0)
        net.running_mean.fill_(step * 3.0)
        net.num_batches_tracked.fill_(step)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        weight, mean = decay * weight + (1 - decay) * step * 2, decay * mean + (1 - decay) * step * 3
    made = average.model
    assert float(made.weight) == pytest.approx(weight) and float(made.running_mean) == pytest.approx(mean)
    assert int(made.num_batches_tracked) == 4
    assert not made.training and not made.weight.requires_grad and float(net.weight.detach()) == 8.0


def test_optimisers_go_by_name_and_spare_norms_from_decay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = make_optimizer(net, OptimConfig(optimizer="adamp", weight_decay=0.1)).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert [decay[id(p)] for p in net.parameters()] == [0.1, 0, 0, 0]
    with pytest.raises(UsageError, match="no optimiser 'adamwx'") as error:
        make_optimizer(net, OptimConfig(optimizer="adamwx"))
    assert "adamw" in error.value.hint


def test_earlier_layers_learn_slower() -> None:
    net = build("test_resnet", 3, (32, 32))
    optimizer = make_optimizer(net, OptimConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    by_stage = [{rate[id(net.get_parameter(n))] for n in group} for group in stages(net)]
    assert by_stage[-1] == {1.0} and max(by_stage[0]) < min(by_stage[2]) < 1.0
    ordered = [max(s) for s in by_stage]
    assert ordered == sorted(ordered)


def test_a_sharpness_aware_step_by_hand() -> None:
    """f(w) = w0^2 + 10 w1^2 at (1, 1): the gradient is taken at w + rho * g / |g|."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 1.0]])

    def gradient() -> Tensor:
        net.weight.grad = None
        (net.weight**2 * torch.tensor([1.0, 10.0])).sum().backward()  # type: ignore[no-untyped-call]
        assert net.weight.grad is not None
        return net.weight.grad.clone()

    g = gradient()
    before = sam_perturb(net, 0.5)
    moved = torch.tensor([[1.0, 1.0]]) + 0.5 * g / g.norm()
    torch.testing.assert_close(net.weight.detach(), moved)
    torch.testing.assert_close(gradient(), 2 * moved * torch.tensor([1.0, 10.0]))
    sam_restore(before)
    assert net.weight.tolist() == [[1.0, 1.0]]
