"""Averages of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def average_of(model: nn.Module) -> nn.Module:
    """A copy of a network to hold the running average of its weights."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def decay_at(step: int, decay: float) -> float:
    """Decay of the running average at an update (from 0): small at first, so that the random start is soon forgotten.

    ``(1 + t) / (10 + t)`` up to ``decay``, as TensorFlow's moving averages.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the weights by ``1 - decay``; running statistics of norms too, counters are copied."""
    ours, theirs = _tensors(average), _tensors(model)
    moving = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in moving], [b for _, b in moving], 1 - decay)
    for a, b in zip(ours, theirs, strict=True):
        if not a.is_floating_point():
            a.copy_(b)


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())
