"""Which learning rate to take: a range test (Smith, arXiv 1506.01186). Nothing is written, no run is changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maskprep.base import counted
from masktrain.config.config import FitConfig
from masktrain.study.preflight import curve, prepare
from masktrain.train import loop
from masktrain.train.draws import draw_seed
from masktrain.train.optim import set_learning_rate

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
"""Rates of the first and of the last update, and how many updates there are if none makes the loss explode."""
MEMORY = 0.9
"""Share of the losses before in the smoothed loss, divided by what the first ones lack."""
EXPLODED = 4.0
"""The test ends when the smoothed loss is so many times its lowest value (fastai's rule)."""
SETTLED = 10
"""Updates before the lowest loss is looked for, as until then the mean is of too few; and the span of a fall."""


@dataclass(frozen=True)
class Rates:
    """A range test.

    Args:
        rates, losses, smoothed: of each update, the rate rising by a constant factor.
        lowest: the rate at the lowest smoothed loss.
        steepest: the rate in the middle of the ten updates over which it falls most.
        advised: ``steepest``, as fastai's finder takes it; None if the loss never fell.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    lowest: float
    steepest: float
    advised: float | None


def find(
    cache: Path, config: FitConfig | None = None, *, low: float = LOWEST, high: float = HIGHEST, steps: int = STEPS
) -> Rates:
    """Train on the run's own batches from the run's own first weights, each update at a higher rate than the last.

    Sampling, augmentation, mixing, loss and frozen stages are those of the settings, and so is every draw: equal
    settings give equal figures. The schedule, and what ``optim.lr`` says, do not matter.

    Args:
        low, high, steps: the first rate, the last one, and how many updates.

    Raises:
        UserError: all that would stop the fit.
    """
    made = prepare(cache, config)
    state, train, config = made.state, made.train, made.config
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for i in range(steps):
        epoch, step = divmod(i, train.steps)
        if not step:
            loop.set_train_mode(state, 1)
            batches = train.epoch(epoch + 1)
        rate = low * (high / low) ** (i / max(steps - 1, 1))
        torch.manual_seed(draw_seed(config.run.seed, epoch + 1, step))
        set_learning_rate(state.optimizer, rate)
        loss = float(loop.train_step(state, next(batches), train.augmenter)[0])
        if not math.isfinite(loss):
            break
        mean = MEMORY * mean + (1 - MEMORY) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(mean / (1 - MEMORY ** (i + 1)))
        if i >= SETTLED and smoothed[-1] > EXPLODED * min(smoothed):
            break
    return read(rates, losses, smoothed)


def read(rates: list[float], losses: list[float], smoothed: list[float]) -> Rates:
    """What a range test shows, by its rates and losses."""
    start, values = min(SETTLED, max(len(rates) - 2, 0)), np.array(smoothed)
    lowest = start + int(values[start:].argmin()) if len(values) else 0
    falls = values[start + SETTLED : lowest + 1] - values[start : max(lowest + 1 - SETTLED, start)]
    steepest = start + int(falls.argmin()) + SETTLED // 2 if len(falls) else lowest
    fell = lowest > start and values[lowest] < values[start]
    at = rates or [math.nan]
    return Rates(rates, losses, smoothed, at[lowest], at[steepest], at[steepest] if fell else None)


def lines(found: Rates, config: FitConfig) -> list[str]:
    """A range test in words: the curve, some of its points, and what to take."""
    if not found.rates:
        return ["loss    not finite even at the lowest rate; see masktrain fit CACHE --check"]
    points = np.unique(np.linspace(0, len(found.rates) - 1, 9).astype(int)).tolist()
    take = "none, as the loss did not fall; see masktrain fit CACHE --check"
    if found.advised is not None:
        take = f"--lr {found.advised:.1e}, where the loss falls most (the settings have {config.optim.lr:.1e})"
    return [
        f"loss    {curve(found.smoothed)}  smoothed, {counted(len(found.rates), 'update')}",
        f"rate    {found.rates[0]:.0e} {'to':^43} {found.rates[-1]:.0e}",
        *(f"        {found.rates[i]:.1e}  {found.smoothed[i]:.3f}" for i in points),
        f"result  lowest loss at {found.lowest:.1e}, steepest fall at {found.steepest:.1e}",
        f"take    {take}",
    ]
