"""The training loop: one step, one epoch, one fit. On a GPU nothing in a step waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.errors import UsageError, UserError
from masktrain.config import FitConfig
from masktrain.learn.augment import draw_seed
from masktrain.learn.batches import Batches
from masktrain.learn.host import keep_freed_memory
from masktrain.learn.optim import CrossEntropy, class_weights, learning_rate, make_optimizer, set_learning_rate

LOG_EVERY = 20
"""Steps between two looks at the loss; each look makes a GPU's queue run dry once."""


class Progress(Protocol):
    """Shows how a fit gets on; see :mod:`masktrain.show`."""

    def step(self, epoch: int, images: int, loss: float | None, waited: float) -> None:
        """After a step: images done in this epoch, the epoch's mean loss now and then, seconds waited for data."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch, with its line of metrics.jsonl."""


@dataclass(frozen=True)
class Precision:
    """How the forward pass is computed: in float32, or in 16 bits on a GPU."""

    device: torch.device
    dtype: torch.dtype | None

    def context(self) -> AbstractContextManager[Any]:
        """The autocast of one forward pass."""
        return torch.autocast(self.device.type, self.dtype or torch.float32, enabled=self.dtype is not None)


@dataclass
class Learner:
    """All that changes while training; its :meth:`state` is enough to go on bit by bit."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: CrossEntropy
    precision: Precision
    mean: Tensor
    std: Tensor
    scaler: torch.amp.GradScaler
    epoch: int = 0
    best: dict[str, Any] = field(default_factory=lambda: {"epoch": 0, "score": -1.0})

    def state(self) -> dict[str, Any]:
        """Tensors and plain values. No generator states: every draw is a function of (seed, epoch, step, image)."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "best": dict(self.best),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.best = int(state["epoch"]), dict(state["best"])


def make_learner(
    model: nn.Module,
    config: FitConfig,
    labels: NDArray[np.int64],
    num_classes: int,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    device: torch.device,
) -> Learner:
    """Put a model on a device together with its optimiser and its loss.

    Args:
        labels: of the training images, for the class weights.
        mean, std: of the training crops, per channel, 0..1.
    """
    precision = choose_precision(device, config.run.amp)
    model = model.to(device)
    weights = class_weights(labels, num_classes, config.optim.class_weights)
    return Learner(
        model=model,
        optimizer=make_optimizer(model, config.optim),
        criterion=CrossEntropy(weights, config.optim.label_smoothing).to(device),
        precision=precision,
        mean=torch.tensor(mean * 255, dtype=torch.float32, device=device).view(1, 3, 1, 1),
        std=torch.tensor(std * 255, dtype=torch.float32, device=device).view(1, 3, 1, 1).clamp(min=1.0),
        scaler=torch.amp.GradScaler(device.type, enabled=precision.dtype is torch.float16),
    )


def fit(
    learner: Learner,
    config: FitConfig,
    train: Batches,
    val: Batches,
    evaluate: Callable[[NDArray[np.float32]], dict[str, Any]],
    after_epoch: Callable[[dict[str, Any], NDArray[np.float32], bool], None],
    progress: Progress,
) -> None:
    """Train from the learner's epoch to the last one.

    Args:
        evaluate: scores of the validation probabilities [n, C]; its ``macro_f1`` decides which epoch is best.
        after_epoch: called with the epoch's metrics, the probabilities and whether it is the best so far.
    """
    for epoch in range(learner.epoch + 1, config.optim.epochs + 1):
        started = time.perf_counter()
        trained = train_epoch(learner, config, train, epoch, progress)
        seconds = time.perf_counter() - started
        probabilities, loss = predict(learner, val, config.optim.label_smoothing)
        scores = evaluate(probabilities)
        learner.epoch = epoch
        best = scores["macro_f1"] > learner.best["score"]
        if best:
            learner.best = {"epoch": epoch, "score": scores["macro_f1"]}
        record = {
            "epoch": epoch,
            "step": epoch * train.steps,
            **trained,
            "val_loss": loss,
            **scores,
            "best_epoch": learner.best["epoch"],
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round(len(train.rows) / seconds, 1),
            "data_wait": round(train.waited / seconds, 4),
        }
        after_epoch(record, probabilities, best)
        progress.epoch(record)


def train_epoch(learner: Learner, config: FitConfig, train: Batches, epoch: int, progress: Progress) -> dict[str, Any]:
    """One pass over the training images.

    Returns:
        Mean loss, accuracy (on the augmented images, as they were trained on) and the last learning rate.

    Raises:
        UserError: the loss is no longer a number.
    """
    learner.model.train()
    device = train.device
    steps = config.optim.epochs * train.steps
    lost = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    seen = 0
    rate = 0.0
    for i, batch in enumerate(train.epoch(epoch)):
        torch.manual_seed(draw_seed(config.run.seed, epoch, i))  # dropout
        rate = learning_rate((epoch - 1) * train.steps + i, steps, config.optim)
        set_learning_rate(learner.optimizer, rate)
        logits, loss = train_step(learner, batch.pixels, batch.labels, config.optim.clip)
        lost += loss * len(batch.rows)
        right += (logits.argmax(1) == batch.labels).sum()
        seen += len(batch.rows)
        look = i % LOG_EVERY == LOG_EVERY - 1
        progress.step(epoch, seen, float(lost) / seen if look else None, train.waited)
    mean = float(lost) / max(seen, 1)
    if not math.isfinite(mean):
        raise UserError(f"The loss is {mean} in epoch {epoch}.", "Try a lower --lr, or --amp off on a GPU.")
    return {"train_loss": mean, "train_accuracy": float(right) / max(seen, 1), "lr": rate}


def train_step(learner: Learner, pixels: Tensor, labels: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """One update. Returns the logits [n, C] and the loss, detached and still on the device."""
    with learner.precision.context():
        logits = learner.model(normalise(pixels, learner.mean, learner.std))
        loss = learner.criterion(logits, labels)
    learner.scaler.scale(loss).backward()
    if clip:
        learner.scaler.unscale_(learner.optimizer)
        nn.utils.clip_grad_norm_(learner.model.parameters(), clip)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    return logits.detach(), loss.detach()


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels uint8 [n, 3, H, W] to zero mean and unit deviation; ``mean`` and ``std`` in 0..255, [1, 3, 1, 1]."""
    return pixels.to(mean.dtype).sub_(mean).div_(std)


def predict(learner: Learner, batches: Batches, smoothing: float = 0.0) -> tuple[NDArray[np.float32], float]:
    """Probabilities float32 [n, C] of images in the order of their rows, and their mean unweighted loss."""
    logits = list(logits_of(learner.model, batches, learner.mean, learner.std, learner.precision))
    if not logits:
        return np.zeros((0, 0), dtype=np.float32), math.nan
    joined = torch.cat(logits)
    labels = torch.from_numpy(batches.labels).to(joined.device)
    loss = nn.functional.cross_entropy(joined, labels, label_smoothing=smoothing, ignore_index=-1)
    return joined.softmax(1).cpu().numpy(), float(loss)


def logits_of(model: nn.Module, batches: Batches, mean: Tensor, std: Tensor, precision: Precision) -> Iterator[Tensor]:
    """Logits float32 [n, C] batch by batch, without augmentation."""
    model.eval()
    with torch.inference_mode():
        for batch in batches.epoch(None):
            with precision.context():
                logits: Tensor = model(normalise(batch.pixels, mean, std))
            yield logits.float()


def choose_device(name: str) -> torch.device:
    """The device meant by a name, made ready; ``auto`` is the GPU if there is one.

    Raises:
        UsageError: torch does not know it, or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"There is no device '{name}'.", "Use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"Training on '{name}' is not supported.", "Use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"Device '{name}' is not here: torch sees {torch.cuda.device_count()} GPUs.", "Use --device cpu."
        )
    if device.type == "cpu":
        keep_freed_memory()
    return device


def choose_precision(device: torch.device, amp: str) -> Precision:
    """16 bits on a GPU: bf16 where it can, otherwise fp16 with a scaler. Float32 on a CPU."""
    if device.type != "cuda" or amp == "off":
        return Precision(device, None)
    if amp == "auto":
        amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return Precision(device, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp])
