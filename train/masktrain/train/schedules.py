"""Learning rates. Functions of the number of the update, and of past scores for ``plateau``: no state to lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from masktrain.config.plugins import Registry
from masktrain.config.sections import SCHEDULES, ScheduleConfig

schedule: Registry[Callable[[float, float, ScheduleConfig], float]] = Registry("schedule", SCHEDULES)
"""Adds a schedule by name: the share of the peak by the shares of the training that have passed since the warm-up and
altogether; see docs/plugins.md."""

LOW = 0.04
"""Share of the peak at which ``onecycle`` starts, and to which ``cyclic`` falls at least (1/25, fastai)."""


def learning_rate(step: int, steps: int, peak: float, config: ScheduleConfig, drops: int = 0) -> float:
    """Learning rate of an update.

    Args:
        step: number of the update, 0..steps-1.
        steps: updates of the whole training.
        peak: the highest rate.
        drops: how often the score has stood still, see :func:`plateau_drops`.
    """
    warm = min(round(config.warmup * steps), steps - 1)
    if config.kind == "onecycle":
        if step < warm:
            return peak * _cosine(LOW, 1.0, step / warm)
        return peak * _cosine(1.0, config.floor, (step - warm) / (steps - warm))
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * max(config.floor, _factor((step - warm) / (steps - warm), step / steps, drops, config))


def _factor(after: float, done: float, drops: int, config: ScheduleConfig) -> float:
    """Share of the peak, by the shares of the training that have passed since the warm-up and altogether."""
    if config.kind == "cosine":
        return _cosine(1.0, config.floor, after)
    if config.kind == "step":
        return config.gamma ** int(done * config.stretches)
    if config.kind == "multistep":
        return config.gamma ** sum(done >= m for m in config.milestones)
    if config.kind == "exponential":
        return float(config.gamma**after)
    if config.kind == "cyclic":  # triangles from the peak down and up again
        way = after * config.cycles % 1.0
        low = max(config.floor, LOW)
        return low + (1 - low) * abs(1 - 2 * way)
    if config.kind == "restarts":  # SGDR, arXiv 1608.03983
        return _cosine(1.0, config.floor, after * config.cycles % 1.0)
    if config.kind == "plateau":
        return config.gamma**drops
    return float(schedule[config.kind](after, done, config)) if config.kind in schedule else 1.0


def plateau_drops(scores: Sequence[float], patience: int) -> int:
    """How often a score (higher is better) has stood still for more than ``patience`` epochs in a row."""
    best, still, drops = -math.inf, 0, 0
    for score in scores:
        still = 0 if score > best else still + 1
        best = max(best, score)
        if still > patience:
            drops, still = drops + 1, 0
    return drops


def _cosine(start: float, end: float, way: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * way))
