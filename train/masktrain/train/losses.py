"""Losses by name. All take shares of classes as the truth, so that mixed and smoothed labels need no second form.

``truth`` is float [n, K] with rows that add up to 1; for plain labels it is one-hot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from maskprep.base import UsageError
from masktrain.config.plugins import Registry
from masktrain.config.sections import LOSSES, LossConfig, TargetConfig
from masktrain.train.targets import Head, Target

T = TypeVar("T")

loss: Registry[Callable[[Tensor, Tensor, LossConfig], Tensor]] = Registry("loss", LOSSES)
"""Adds a loss by name: its values [n] from logits and shares of the classes, both [n, K]; see docs/plugins.md."""


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of each image [n]."""
    return -(truth * logits.log_softmax(1)).sum(1)


def focal(logits: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Focal loss of each image [n], ``-(1 - p)^gamma log p`` (arXiv 1708.02002), from log-probabilities throughout."""
    log_p = logits.log_softmax(1)
    return -(truth * (-torch.expm1(log_p)).clamp(min=0.0) ** gamma * log_p).sum(1)


def binary(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy of each image [n], summed over its questions."""
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1)


def soft_f1(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """1 - mean F1 over the classes that occur in the truth, with probabilities in place of counts.

    Differentiable throughout: no argmax. ``weight`` [n] counts an image as so many.
    """
    p = logits.softmax(1)
    weight = weight.unsqueeze(1)
    hits, given, support = (weight * p * truth).sum(0), (weight * p).sum(0), (weight * truth).sum(0)
    present = support > 0
    f1 = 2 * hits / (given + support).clamp(min=1e-12)
    return 1 - (f1 * present).sum() / present.sum().clamp(min=1)


def number_loss(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean Huber loss of numbers [n], quadratic up to a difference of 0.1; those not known (NaN) count nothing."""
    known = wanted.isfinite()
    wanted = torch.where(known, wanted, given.detach())
    return functional.smooth_l1_loss(given, wanted, reduction="none", beta=0.1).mean()


def ldam_margins(counts: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    """Margin of each class, n^-1/4 scaled so that the rarest that occurs has ``largest`` (arXiv 1906.07413)."""
    margins = np.where(counts > 0, np.maximum(counts, 1) ** -0.25, 0.0)
    scaled: NDArray[np.float64] = margins * (largest / max(margins.max(), 1e-12))
    return scaled


def class_weights(counts: NDArray[np.float64], kind: str, beta: float = 0.9999) -> NDArray[np.float64] | None:
    """Weight of each class in the loss by its count n in the training images, or None.

    sqrt n^-1/2, inverse 1/n, log 1/log(1+n), effective (1-beta)/(1-beta^n) (arXiv 1901.05555). Scaled to a mean of 1
    over the images, so that the learning rate keeps its meaning; absent classes get 0.
    """
    if kind == "none":
        return None
    n = np.maximum(counts, 1).astype(np.float64)
    formulas: dict[str, Callable[[], NDArray[np.float64]]] = {
        "sqrt": lambda: n**-0.5,
        "inverse": lambda: 1 / n,
        "log": lambda: 1 / np.log1p(n),
        "effective": lambda: (1 - beta) / (1 - beta**n),
    }
    weight = np.where(counts > 0, formulas[kind](), 0.0)
    if not counts.any():  # a head that no training image asks
        return weight
    scaled: NDArray[np.float64] = weight * (counts.sum() / (weight * counts).sum())
    return scaled


class Criterion(nn.Module):
    """The loss of one head.

    The mean over the batch is not divided by the class weights met in it, so each image counts the same in every batch.

    Args:
        name: one of ``sections.LOSSES``.
        counts: draws of each class of the head in an epoch, float64 [K].
    """

    weights: Tensor | None
    margins: Tensor

    def __init__(
        self, name: str, head: Head, counts: NDArray[np.float64], config: LossConfig, cosine: bool = False
    ) -> None:
        super().__init__()
        weights = class_weights(counts, config.class_weights, config.beta)
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights).float())
        # LDAM scales logits and margins alike: a cosine head's outputs are scaled, those of a linear one are not
        margins = ldam_margins(counts, config.margin) * (config.scale if cosine else 1.0)
        self.register_buffer("margins", torch.from_numpy(margins).float())
        self.name, self.head, self.config = name, head, config

    def forward(self, outputs: Tensor, truth: Tensor, weighted: bool = True) -> Tensor:
        """Loss of the head's outputs [n, outputs] against shares of its classes [n, K].

        Args:
            weighted: whether the class weights count yet.
        """
        counts = self.weights is not None and weighted
        weight = truth @ self.get_buffer("weights").to(truth.dtype) if counts else torch.ones_like(truth[:, 0])
        smooth = truth + self.config.label_smoothing * (1 / truth.shape[1] - truth)
        if self.name in ("bce", "soft_margin"):
            odds, asked = self.head.binary(outputs, smooth)
            return (weight * binary(odds, asked)).mean() / (1 if self.name == "bce" else odds.shape[1])
        logits = self.head.logits(outputs)
        if self.name in loss:
            return (weight * _of_plugin(self.name, logits, smooth, self.config)).mean()
        if self.name == "focal":
            return (weight * focal(logits, smooth, self.config.gamma)).mean()
        if self.name == "ldam":
            logits = logits - truth * self.margins.to(truth.dtype)
        share = {"f1": 1.0, "ce_f1": self.config.f1_share}.get(self.name, 0.0)
        value = torch.zeros_like(logits[0, 0])
        if share < 1:
            value = value + (1 - share) * (weight * cross_entropy(logits, smooth)).mean()
        if share > 0:
            value = value + share * soft_f1(logits, truth, weight)
        return value


class Objective(nn.Module):
    """The loss of all outputs: the weighted mean of the losses of the heads.

    Args:
        target: what the outputs mean.
        counts: draws of each joint class in an epoch, float64 [C]; class weights are made of what is drawn, so that
            sampling and weights do not both make up for a rare class.
        cosine: whether the classifier is one by direction.

    Raises:
        UsageError: weights, losses or smoothing that are not one for each head.
    """

    def __init__(
        self,
        target: Target,
        counts: NDArray[np.float64],
        config: LossConfig,
        heads: TargetConfig,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        names = _per_head(target, heads.losses, config.name, "target.losses")
        weights = _per_head(target, heads.weights, 1.0, "target.weights")
        smooth = _per_head(target, heads.smoothing, config.label_smoothing, "target.smoothing")
        own = [replace(config, label_smoothing=value) for value in smooth]
        if sum(weights) <= 0:
            raise UsageError("The weights of the heads add up to nothing.", "Set target.weights to numbers above 0.")
        self.target, self.defer = target, config.defer
        self.shares, self.number_share = [w / sum(weights) for w in weights], heads.number_share
        of_heads = [t[0].numpy() for t in target.truths(torch.from_numpy(counts).unsqueeze(0))]
        self.criteria = nn.ModuleList(
            Criterion(n, h, c, o, cosine) for n, h, c, o in zip(names, target.heads, of_heads, own, strict=True)
        )

    def class_weights(self) -> dict[str, list[float]]:
        """Weights of the classes, for each head that has some."""
        parts = zip(self.target.heads, self.criteria, strict=True)
        return {h.name: c.get_buffer("weights").tolist() for h, c in parts if c.weights is not None}

    def forward(self, outputs: Tensor, truth: Tensor, numbers: Tensor | None = None, weighted: bool = True) -> Tensor:
        """Loss of outputs [n, outputs] against shares of the joint classes [n, C].

        Args:
            numbers: of the attributes that are answered with a number, [n, numbers], NaN where they are not known.
            weighted: whether the class weights count yet, see :attr:`defer`.
        """
        split, total = self.target.split(outputs), outputs.new_zeros((), dtype=torch.float32)
        known = iter(() if numbers is None else numbers.to(split[0].dtype).unbind(1))
        parts = zip(self.target.heads, self.criteria, split, self.target.truths(truth), self.shares, strict=True)
        for head, criterion, part, own, share in parts:
            value = criterion(part, own, weighted)
            if head.limits and numbers is not None:
                off = number_loss(part[:, 0], (next(known) - head.centre) / head.unit)
                value = (1 - self.number_share) * value + self.number_share * off
            total = total + share * value
        return total


def _of_plugin(name: str, logits: Tensor, truth: Tensor, config: LossConfig) -> Tensor:
    """The values [n] of a plugin's loss.

    Raises:
        UsageError: it gives something else.
    """
    found = loss[name](logits, truth, config)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(f"The loss '{name}' of a plugin gives {what}; it must give one value for each image.")
    return found


def _per_head(target: Target, given: tuple[T, ...], otherwise: T, what: str) -> tuple[T, ...]:
    """A value for each head."""
    names = [h.name for h in target.heads]
    if given and len(given) != len(names):
        raise UsageError(f"'{what}' has {len(given)} values; the target has {len(names)} heads: {', '.join(names)}.")
    return given or (otherwise,) * len(names)
