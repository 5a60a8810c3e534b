"""Optimisers by name, learning rates, averages of weights, and sharpness-aware steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from maskprep.base import UsageError
from masktrain.config.plugins import Registry
from masktrain.config.sections import SCHEDULES, OptimConfig, ScheduleConfig
from masktrain.config.settings import nearest

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Optimisers of torch that do a step in one kernel on CUDA."""

schedule: Registry[Callable[[float, float, ScheduleConfig], float]] = Registry("schedule", SCHEDULES)
"""Adds a schedule by name: the share of the peak by the shares of the training that have passed since the warm-up and
altogether; see docs/plugins.md."""

LOW = 0.04
"""Share of the peak at which ``onecycle`` starts, and to which ``cyclic`` falls at least (1/25, fastai)."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """An optimiser of timm's factory, without weight decay on biases and norms.

    Raises:
        UsageError: timm has none of this name.
    """
    from masktrain.train.model import import_timm

    import_timm()
    import timm.optim

    known = timm.optim.list_optimizers()
    if config.optimizer.lower() not in known:
        near = nearest(config.optimizer.lower(), known)
        raise UsageError(f"timm has no optimiser '{config.optimizer}'.", f"Did you mean '{near[0]}'?" if near else "")
    on_gpu = next(model.parameters()).device.type == "cuda"
    kind = timm.optim.get_optimizer_info(config.optimizer.lower()).opt_class
    made: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model,
        opt=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay if config.layer_decay < 1 else None,
        **({"fused": True} if on_gpu and kind in FUSED else {}),
    )
    return made


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, scaled where the group says so (layer-wise decay)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@torch.no_grad()
def sam_perturb(model: nn.Module, radius: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Move the weights to where the loss is highest within a radius, by their gradients (SAM, arXiv 2010.01412).

    Returns:
        The weights that were moved and what they were, for :func:`sam_restore`.
    """
    learning = [p for p in model.parameters() if p.grad is not None]
    before = [(p, p.detach().clone()) for p in learning]
    grads = [p.grad for p in learning if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    scale = radius / (norm + 1e-12)
    for parameter, grad in zip(learning, grads, strict=True):
        parameter.add_(grad * scale)
    return before


@torch.no_grad()
def sam_restore(before: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Put the weights back to what they were, exactly."""
    for parameter, value in before:
        parameter.copy_(value)


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


class WeightAverage:
    """A running average of a network's weights, which is then what is scored and kept.

    The decay is small at first, ``(1 + t) / (10 + t)`` up to ``decay`` as in TensorFlow's moving averages, so that the
    random start is soon forgotten. Running statistics of norms are averaged too; counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._moving = [p for p in pairs if p[0].is_floating_point()]
        self._counters = [p for p in pairs if not p[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after an update, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = map(list, zip(*self._moving, strict=True))
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        if self._counters:
            ours, theirs = map(list, zip(*self._counters, strict=True))
            torch._foreach_copy_(ours, theirs)


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of some networks' weights, added up in float64; counters are those of the last one."""
    return {
        key: torch.stack([s[key].double() for s in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in states[-1].items()
    }
