"""Optimiser and learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from maskprep.errors import UsageError
from masktrain.config import OptimConfig, nearest


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """An optimiser of timm's factory, without weight decay on biases and norms.

    Raises:
        UsageError: timm has none of this name.
    """
    from masktrain.learn.model import import_timm

    import_timm()
    import timm.optim

    known = timm.optim.list_optimizers()
    if config.optimizer.lower() not in known:
        near = nearest(config.optimizer.lower(), known)
        raise UsageError(f"timm has no optimiser '{config.optimizer}'.", f"Did you mean '{near[0]}'?" if near else "")
    made: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay
    )
    return made


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of an update: linear warm-up, then half a cosine down to zero.

    A function of the number of the update (0..steps-1) alone, so there is no scheduler state to lose.
    """
    warm = min(round(config.warmup * steps), steps - 1)
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, scaled where the group says so (layer-wise decay)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
