"""Optimiser, learning rate and loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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


def class_weights(labels: NDArray[np.int64], num_classes: int, kind: str) -> NDArray[np.float64] | None:
    """Weight of each class in the loss by its count n in the training images: n^-1/2, 1/n, or None.

    Scaled to a mean of 1 over the images, so that the learning rate keeps its meaning; absent classes get 0.
    """
    if kind == "none":
        return None
    count = np.bincount(labels, minlength=num_classes).astype(np.float64)
    power = {"sqrt": -0.5, "inverse": -1.0}[kind]
    weight = np.where(count > 0, np.maximum(count, 1) ** power, 0.0)
    scaled: NDArray[np.float64] = weight * (count.sum() / (weight * count).sum())
    return scaled


class CrossEntropy(nn.Module):
    """Cross-entropy with class weights and smoothing (eps/C on each of the C classes).

    The mean over the batch is not divided by the weights met in it, so each image counts the same in every batch.

    Args:
        weights: weight per class [C], or None.
        smoothing: eps.
    """

    weights: Tensor | None

    def __init__(self, weights: NDArray[np.float64] | None, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights).float())
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits [n, C] and labels int64 [n]."""
        loss: Any = nn.functional.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.smoothing
        )
        return (loss if self.weights is None else loss * self.weights[labels]).mean()  # type: ignore[no-any-return]
