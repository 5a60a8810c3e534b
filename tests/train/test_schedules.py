"""Learning rates by hand, at the updates where they matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from masktrain.config.sections import SCHEDULES, ScheduleConfig
from masktrain.train.schedules import learning_rate, plateau_drops


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
