"""The training loop: one step, one epoch, one fit. On a GPU nothing in a step waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from masktrain.config.config import FitConfig
from masktrain.config.sections import OptimConfig
from masktrain.train import parallel
from masktrain.train.augment import draw_seed
from masktrain.train.averaging import average_of, decay_at, update_average
from masktrain.train.batches import Batch, Batches
from masktrain.train.criteria import criterion as criterion
from masktrain.train.freezing import check as check_freezing
from masktrain.train.freezing import freeze, frozen_stages, stages, thawed
from masktrain.train.host import Precision, choose_precision, compiled
from masktrain.train.losses import Objective
from masktrain.train.networks import Several
from masktrain.train.optim import climb, descend, make_optimizer, set_learning_rate
from masktrain.train.recomputation import kept_buffers, recompute
from masktrain.train.schedules import learning_rate, plateau_drops
from masktrain.train.targets import Target

LOG_EVERY = 20
"""Steps between two looks at the loss; each look makes a GPU's queue run dry once."""


class Progress(Protocol):
    """Shows how a fit gets on; see :mod:`masktrain.cli.show`."""

    def step(self, epoch: int, images: int, loss: float | None, waited: float) -> None:
        """After a step: images done in this epoch, the epoch's mean loss now and then, seconds waited for data."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch, with its line of metrics.jsonl."""


@dataclass
class Learner:
    """All that changes while training; its :meth:`state` is enough to go on bit by bit, at any step.

    Attributes:
        average: running average of the weights, which is then what is scored and kept.
        epoch, step: whole epochs done, and steps done in the one that runs.
        sums: of the epoch that runs: loss over its images and how many were right.
        seen: images of the epoch that runs.
        micro: images on the device at once.
        scores: of every epoch so far, by the criterion of selection; higher is better.
        forward: the network as it is trained, compiled or not.
        checkpointing: activations are computed again for the gradients.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    precision: Precision
    mean: Tensor
    std: Tensor
    scaler: torch.amp.GradScaler
    average: nn.Module | None = None
    mirror: bool = False
    micro: int = 0
    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seen: int = 0
    scores: list[float] = field(default_factory=list)
    forward: Callable[[Tensor], Tensor] | None = None
    checkpointing: bool = False

    @property
    def best(self) -> int:
        """The best epoch so far, the earlier one of two alike; 0 before the first."""
        return 1 + self.scores.index(max(self.scores)) if self.scores else 0

    @property
    def scored(self) -> nn.Module:
        """The network that is scored and kept: the average of its weights if there is one."""
        return self.average or self.model

    def new_epoch(self) -> None:
        """Nothing of the next epoch is done yet."""
        device = self.precision.device
        # a GPU is slow at float64
        lost = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self.step, self.seen = 0, 0
        self.sums = {"loss": lost, "right": torch.zeros((), dtype=torch.int64, device=device)}

    def state(self) -> dict[str, Any]:
        """Tensors and plain values. No generator states: every draw is a function of (seed, epoch, step, image)."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": dict(self.sums),
            "seen": self.seen,
            "micro": self.micro,
            "scores": list(self.scores),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.scores = int(state["epoch"]), list(state["scores"])
        self.step, self.seen, self.micro = int(state["step"]), int(state["seen"]), int(state["micro"])
        self.sums = {k: v.to(self.precision.device) for k, v in state["sums"].items()}


def make_learner(
    model: nn.Module,
    config: FitConfig,
    objective: Objective,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    device: torch.device,
) -> Learner:
    """Put a model on a device together with its optimiser and its loss.

    Args:
        mean, std: of the training crops, per channel, 0..1.

    Raises:
        UsageError: settings that do not go together, or that the model cannot do.
    """
    precision = choose_precision(device, config.run.amp)
    if config.optim.sam and precision.dtype is torch.float16:
        raise UsageError("SAM needs gradients that are not scaled.", "Use --amp bf16 or --amp off.")
    if config.model.checkpointing:
        recompute(model)
    check_freezing(config.model, config.select.patience)
    if config.model.freeze:
        frozen_stages(1, 1, len(stages(model)), config.model.freeze, 0.0)
    model = model.to(device)
    learner = Learner(
        model=model,
        optimizer=make_optimizer(model, config.optim),
        objective=objective.to(device),
        precision=precision,
        mean=torch.tensor(mean * 255, dtype=torch.float32, device=device).view(1, 3, 1, 1),
        std=torch.tensor(std * 255, dtype=torch.float32, device=device).view(1, 3, 1, 1).clamp(min=1.0),
        scaler=torch.amp.GradScaler(device.type, enabled=precision.dtype is torch.float16),
        average=average_of(model) if config.optim.ema else None,
        mirror=config.run.tta == "mirror",
        micro=config.optim.micro_batch or config.optim.batch_size,
        forward=compiled(model) if config.run.compile else None,
        checkpointing=config.model.checkpointing,
    )
    learner.new_epoch()
    return learner


def fit(
    learner: Learner,
    config: FitConfig,
    train: Batches,
    val: Batches,
    evaluate: Callable[[NDArray[np.float32]], dict[str, Any]],
    after_epoch: Callable[[dict[str, Any], NDArray[np.float32], bool], None],
    progress: Progress,
    pause: Callable[[], None],
) -> None:
    """Train from where the learner stands to the last epoch, or until no epoch is better for too long.

    Args:
        evaluate: scores of the validation probabilities [n, C]; ``select.by`` says which one decides.
        after_epoch: called with the epoch's metrics, the probabilities and whether it is the best so far.
        pause: called wherever the learner's state is whole and may be kept; raises to stop.
    """
    for epoch in range(learner.epoch + 1, config.optim.epochs + 1):
        if config.select.patience and learner.epoch - learner.best >= config.select.patience:
            break
        started = time.perf_counter()
        seen = learner.seen
        trained = train_epoch(learner, config, train, epoch, progress, pause)
        seconds = time.perf_counter() - started
        parallel.average_buffers(learner.model, learner.average)
        here = pause if parallel.world() == 1 else _go_on  # the others wait, and cannot agree to stop meanwhile
        probabilities, loss = parallel.from_first(lambda: predict(learner, val, here))  # noqa: B023
        scores = {"val_loss": loss, **evaluate(probabilities)}
        learner.scores.append(criterion(scores, config.select.by))
        record = {
            "epoch": epoch,
            "step": epoch * train.steps,
            **trained,
            **scores,
            "best_epoch": learner.best,
            "micro_batch": learner.micro,
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round((learner.seen - seen) / seconds, 1),
            "data_wait": round(train.waited / seconds, 4),
        }
        learner.epoch = epoch
        learner.new_epoch()
        after_epoch(record, probabilities, learner.best == epoch)
        progress.epoch(record)


def train_epoch(
    learner: Learner,
    config: FitConfig,
    train: Batches,
    epoch: int,
    progress: Progress,
    pause: Callable[[], None],
) -> dict[str, Any]:
    """One pass over the training images, or what is left of it.

    Returns:
        Mean loss, accuracy (on the augmented images, as they were trained on) and the last learning rate.

    Raises:
        UserError: the loss is no longer a number.
    """
    frozen = wake(learner.model, config, epoch, learner.scores)
    steps = config.optim.epochs * train.steps
    drops = plateau_drops(learner.scores, config.schedule.patience)
    for i, batch in enumerate(train.epoch(epoch, learner.step), learner.step):
        own = (parallel.rank(),) * (parallel.world() > 1)
        torch.manual_seed(draw_seed(config.run.seed, epoch, i, *own))  # dropout
        done = (epoch - 1) * train.steps + i
        set_learning_rate(learner.optimizer, learning_rate(done, steps, config.optim.lr, config.schedule, drops))
        outputs, loss = train_step(learner, batch, config.optim, done / steps)
        if learner.average is not None:
            update_average(learner.average, learner.model, decay_at(done, config.optim.ema))
        right = (learner.objective.target.probabilities(outputs).argmax(1) == batch.labels).sum()
        parallel.add_up([right])
        learner.sums["loss"] += loss * len(batch)
        learner.sums["right"] += right
        learner.seen += len(batch)
        learner.step = i + 1
        mean = _mean_loss(learner, epoch) if i % LOG_EVERY == LOG_EVERY - 1 else None
        progress.step(epoch, learner.seen, mean, train.waited)
        pause()
    return {
        "train_loss": _mean_loss(learner, epoch),
        "train_accuracy": float(learner.sums["right"]) / learner.seen,
        "lr": learning_rate(epoch * train.steps - 1, steps, config.optim.lr, config.schedule, drops),
        **({"frozen_stages": frozen} if config.model.freeze else {}),
    }


def wake(model: nn.Module, config: FitConfig, epoch: int, scores: Sequence[float] = ()) -> int:
    """Make a network ready to learn, but for the stages that are frozen in an epoch.

    Args:
        scores: of the epochs before, by the criterion of selection; higher is better.

    Returns:
        How many stages are frozen.
    """
    model.train()
    if not config.model.freeze:
        return 0
    groups = stages(model)
    count = frozen_stages(epoch, config.optim.epochs, len(groups), config.model.freeze, config.model.thaw)
    if config.model.thaw_on_plateau and thawed(scores, config.select.patience):
        count = 0
    freeze(model, groups, count)
    return count


def _mean_loss(learner: Learner, epoch: int) -> float:
    mean = float(learner.sums["loss"]) / learner.seen
    if not math.isfinite(mean):
        raise UserError(
            f"The loss is {mean} in epoch {epoch}, at step {learner.step} or shortly before.",
            "Try a lower --lr, or --amp off on a GPU.",
        )
    return mean


def train_step(learner: Learner, batch: Batch, config: OptimConfig, done: float = 0.0) -> tuple[Tensor, Tensor]:
    """One update.

    Args:
        done: share of the training that is done.

    Returns:
        The outputs and the loss, detached and still on the device.

    Raises:
        UserError: memory does not do for a single image.
    """
    outputs, loss = gradients(learner, batch, done)
    if config.sam:
        before = climb(learner.model, config.sam)
        learner.optimizer.zero_grad(set_to_none=True)
        gradients(learner, batch, done)
        descend(before)
    if config.clip:
        learner.scaler.unscale_(learner.optimizer)
        for net in learner.model.nets if isinstance(learner.model, Several) else [learner.model]:
            nn.utils.clip_grad_norm_(net.parameters(), config.clip)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    return outputs, loss


def gradients(learner: Learner, batch: Batch, done: float) -> tuple[Tensor, Tensor]:
    """Add up the gradients of a batch in parts that the memory can hold; smaller ones as soon as it runs out."""
    truth, forward = batch.truth(math.prod(learner.objective.target.sizes)), learner.forward or learner.model
    while True:
        parts = []
        try:
            for start in range(0, len(truth), learner.micro):
                part = slice(start, start + learner.micro)
                with learner.precision.context():
                    outputs = forward(normalise(batch.pixels[part], learner.mean, learner.std))
                own, numbers = truth[part], None if batch.numbers is None else batch.numbers[part]
                loss = learner.objective(outputs, own, done, numbers) * (len(own) / len(batch))
                with kept_buffers(learner.model) if learner.checkpointing else nullcontext():
                    learner.scaler.scale(loss).backward()
                parts.append((outputs.detach(), loss.detach()))
            outputs, loss = torch.cat([o for o, _ in parts]), torch.stack([v for _, v in parts]).sum()
            parallel.add_up([*(p.grad for p in learner.model.parameters() if p.grad is not None), loss])
            return outputs, loss
        except torch.OutOfMemoryError as error:
            learner.optimizer.zero_grad(set_to_none=True)
            parts.clear()
            if learner.micro == 1:
                raise UserError(
                    "The memory of the GPU does not do for a single image.",
                    "Set model.checkpointing=true, or choose a smaller model or view.",
                ) from error
            learner.micro = (min(learner.micro, len(truth)) + 1) // 2
        torch.cuda.empty_cache()


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Pixels uint8 [n, 3, H, W] to zero mean and unit deviation; ``mean`` and ``std`` in 0..255, [1, 3, 1, 1]."""
    return pixels.to(mean.dtype).sub_(mean).div_(std)


def _go_on() -> None:
    pass


def predict(
    learner: Learner, batches: Batches, pause: Callable[[], None] = _go_on
) -> tuple[NDArray[np.float32], float]:
    """Probabilities float32 [n, C] of images in the order of their rows, and their mean negative log-likelihood."""
    parts = []
    for part in probabilities_of(
        learner.scored, learner.objective.target, batches, learner.mean, learner.std, learner.precision, learner.mirror
    ):
        parts.append(part)
        pause()
    joined = torch.cat(parts).cpu()
    labels = torch.from_numpy(batches.labels)
    right = joined.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)[labels >= 0]
    return joined.numpy(), float(-right.double().clamp(min=1e-12).log().mean())


def probabilities_of(
    model: nn.Module,
    target: Target,
    batches: Batches,
    mean: Tensor,
    std: Tensor,
    precision: Precision,
    mirror: bool = False,
) -> Iterator[Tensor]:
    """Probabilities float32 [n, C] batch by batch, without augmentation; with ``mirror`` the mean of both sides."""
    model.eval()
    with torch.inference_mode():
        for batch in batches.epoch(None):
            pixels = normalise(batch.pixels, mean, std)
            views = [pixels, pixels.flip(3)] if mirror else [pixels]
            with precision.context():
                outputs = [model(v) for v in views]
            yield torch.stack([target.probabilities(o) for o in outputs]).mean(0)
