"""The training loop: one step, one epoch, one fit. Within an epoch no value is read from the device.

The loss that is shown is copied while the device works on; a GPU's queue runs dry once an epoch, for the scores.
"""

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
from masktrain.train import device as devices
from masktrain.train.augment import Augmenter
from masktrain.train.criteria import criterion
from masktrain.train.device import Precision, choose_precision
from masktrain.train.draws import draw_seed
from masktrain.train.freezing import check as check_freezing
from masktrain.train.freezing import freeze, frozen_stages, stages, thawed
from masktrain.train.losses import Objective
from masktrain.train.model import kept_buffers, recompute
from masktrain.train.optim import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    plateau_drops,
    sam_perturb,
    sam_restore,
    set_learning_rate,
)
from masktrain.train.pixels import Batch, Crops, Feed
from masktrain.train.targets import Target

SKIPPED = 20
"""Steps in a row without a finite loss after which a fit in fp16 ends; in other precisions it ends after the first."""

OUT_OF_MEMORY = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOC")


class Progress(Protocol):
    """Shows how a fit gets on; see :mod:`masktrain.cli.show`."""

    def step(self, epoch: int, images: int, loss: float | None, waited: float) -> None:
        """After a step: images done in this epoch, the epoch's mean loss so far, seconds waited for data."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch, with its line of metrics.jsonl."""


@dataclass
class State:
    """All that changes while training; :meth:`to_dict` is enough to go on bit by bit, at any step.

    Attributes:
        model: the network; ``average`` the running average of its weights, which is then what is scored and kept.
        mean, std: what crops are normalised by, 0..255, float32 [1, 3, 1, 1].
        micro: images on the device at once.
        epoch, step: whole epochs done, and steps done in the one that runs.
        sums: of the epoch that runs, on the device: loss over its images, how many were right, and steps in a row
            without a finite loss.
        seen: images of the epoch that runs.
        scores: of every epoch so far by the criterion of selection, ``stops`` by that of early stopping; higher is
            better.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    precision: Precision
    mean: Tensor
    std: Tensor
    scaler: torch.amp.GradScaler
    config: FitConfig
    average: WeightAverage | None = None
    micro: int = 0
    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seen: int = 0
    scores: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    frozen: int = 0
    loss_of: Callable[..., tuple[Tensor, Tensor]] | None = None
    parallel: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.precision.device

    @property
    def best(self) -> int:
        """The epoch to keep: the best so far, the earlier one of two alike, or the last; 0 before the first."""
        if self.config.select.epoch == "last":
            return len(self.scores)
        return 1 + self.scores.index(max(self.scores)) if self.scores else 0

    @property
    def scored(self) -> nn.Module:
        """The network that is scored and kept: the average of its weights if there is one."""
        return self.average.model if self.average else self.model

    def new_epoch(self) -> None:
        """Nothing of the next epoch is done yet."""
        # a GPU is slow at float64
        kind = torch.float64 if self.device.type == "cpu" else torch.float32
        self.step, self.seen = 0, 0
        self.sums = {
            "loss": torch.zeros((), dtype=kind, device=self.device),
            "right": torch.zeros((), dtype=torch.int64, device=self.device),
            "skipped": torch.zeros((), dtype=torch.int64, device=self.device),
        }

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values. No generator states: every draw is a function of (seed, epoch, step, image)."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": dict(self.sums),
            "seen": self.seen,
            "micro": self.micro,
            "scores": list(self.scores),
            "stops": list(self.stops),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`to_dict` gave."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for name in ("epoch", "step", "seen", "micro"):
            setattr(self, name, int(state[name]))
        self.scores, self.stops = list(state["scores"]), list(state["stops"])
        self.sums = {k: v.to(self.device) for k, v in state["sums"].items()}


def make_state(
    model: nn.Module,
    config: FitConfig,
    objective: Objective,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    device: torch.device,
) -> State:
    """Put a model on a device together with its optimiser and its loss.

    Args:
        mean, std: of the training crops, per channel, 0..1.

    Raises:
        UsageError: settings that do not go together, or that the model cannot do.
    """
    precision = choose_precision(device, config.run.amp)
    if config.optim.sam and precision.dtype is torch.float16:
        raise UsageError("optim.sam cannot be used with --amp fp16.", "Use --amp bf16 or --amp off.")
    if config.model.checkpointing:
        recompute(model)
    check_freezing(config.model, config.select.patience or 0)
    if config.model.freeze:
        frozen_stages(1, 1, len(stages(model)), config.model.freeze, 0.0)
    model = model.to(device)
    state = State(
        model=model,
        optimizer=make_optimizer(model, config.optim),
        objective=objective.to(device),
        precision=precision,
        mean=torch.tensor(mean * 255, dtype=torch.float32).view(1, 3, 1, 1).to(device),
        std=torch.tensor(std * 255, dtype=torch.float32).view(1, 3, 1, 1).clamp(min=1.0).to(device),
        scaler=torch.amp.GradScaler(device.type, enabled=precision.dtype is torch.float16),
        config=config,
        average=WeightAverage(model, config.optim.ema) if config.optim.ema else None,
        micro=config.optim.micro_batch,
    )
    state.new_epoch()
    return state


def fit(
    state: State,
    train: Feed,
    val: Crops,
    evaluate: Callable[[NDArray[np.float32]], dict[str, Any]],
    keep: Callable[[dict[str, Any], NDArray[np.float32]], None],
    pause: Callable[[], None],
    progress: Progress,
    until: float = math.inf,
) -> str:
    """Train from where the state stands to the last epoch, or until no epoch is better for too long.

    Args:
        until: ``time.monotonic()`` after which no epoch may end, but for the first one.
        evaluate: scores of the validation probabilities [n, C].
        keep: called with each epoch's metrics and probabilities.
        pause: called wherever the state is whole and may be kept; raises to stop.

    Returns:
        Why it ended before the last epoch: ``patience``, ``minutes`` or nothing.
    """
    config, took = state.config, 0.0
    patience = config.select.patience if config.select.epoch == "best" else 0
    for epoch in range(state.epoch + 1, config.optim.epochs + 1):
        if patience and epochs_since_best(state.stops) >= patience:
            return "patience"
        if state.epoch and time.monotonic() + took > until:
            return "minutes"
        started, seen = time.perf_counter(), state.seen
        trained = train_epoch(state, train, epoch, progress, pause)
        seconds = time.perf_counter() - started
        probabilities, loss = predict(state, val, pause)
        scores = {"val_loss": loss, **evaluate(probabilities)}
        state.scores.append(criterion(scores, config.select.by))
        state.stops.append(criterion(scores, config.select.stop_by or config.select.by))
        record = {
            "epoch": epoch,
            "step": epoch * train.steps,
            **trained,
            **scores,
            "best_epoch": state.best,
            "micro_batch": state.micro or train.batch,
            "seconds": round(time.perf_counter() - started, 3),
            "images_per_second": round((state.seen - seen) / seconds, 1),
            "data_wait": round(train.waited / seconds, 4),
        }
        state.epoch = epoch
        state.new_epoch()
        keep(record, probabilities)
        progress.epoch(record)
        took = time.perf_counter() - started
    return ""


def epochs_since_best(scores: Sequence[float]) -> int:
    """Epochs since the first one with the best score."""
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def train_epoch(state: State, train: Feed, epoch: int, progress: Progress, pause: Callable[[], None]) -> dict[str, Any]:
    """One pass over the training images, or what is left of it.

    Returns:
        Mean loss, accuracy (on the augmented images, as they were trained on) and the last learning rate.

    Raises:
        UserError: the loss is no longer a number.
    """
    config = state.config
    set_train_mode(state, epoch)
    steps = config.optim.epochs * train.steps
    drops = plateau_drops(state.scores, config.schedule.patience)
    rank = (devices.rank(),) * (devices.world_size() > 1)
    meter = Meter(state)
    for i, batch in enumerate(train.epoch(epoch, state.step), state.step):
        torch.manual_seed(draw_seed(config.run.seed, epoch, i, *rank))  # dropout
        done = (epoch - 1) * train.steps + i
        set_learning_rate(state.optimizer, learning_rate(done, steps, config.optim.lr, config.schedule, drops))
        loss, right = train_step(state, batch, train.augmenter, done / steps)
        if state.average is not None:
            state.average.update(done)
        loss, right = devices.all_reduce_mean(loss), devices.all_reduce_sum(right)
        finite = torch.isfinite(loss)
        state.sums["loss"] += torch.where(finite, loss, 0.0) * train.batch
        state.sums["right"] += right
        state.sums["skipped"].copy_(torch.where(finite, 0, state.sums["skipped"] + 1))
        state.seen += train.batch
        state.step = i + 1
        progress.step(epoch, state.seen, meter.mean(epoch), train.waited)
        pause()
    meter.check(int(state.sums["skipped"]), epoch)
    return {
        "train_loss": float(state.sums["loss"]) / state.seen,
        "train_accuracy": float(state.sums["right"]) / state.seen,
        "lr": learning_rate(epoch * train.steps - 1, steps, config.optim.lr, config.schedule, drops),
        **({"frozen_stages": state.frozen} if config.model.freeze else {}),
    }


class Meter:
    """The mean loss of an epoch so far, read without waiting for the device.

    Raises:
        UserError: the loss is no longer a number.
    """

    def __init__(self, state: State) -> None:
        self.state, self.seen = state, 0
        self._copy: tuple[Tensor, torch.cuda.Event] | None = None

    def mean(self, epoch: int) -> float | None:
        """The mean loss as it was some steps ago on a GPU; None before the first."""
        state = self.state
        if state.device.type != "cuda":
            self.check(int(state.sums["skipped"]), epoch)
            return float(state.sums["loss"]) / state.seen
        value = None
        if self._copy is not None:
            if not self._copy[1].query():  # type: ignore[no-untyped-call]
                return None
            loss, skipped = self._copy[0].tolist()
            self.check(int(skipped), epoch)
            value = loss / self.seen
        both = torch.stack([state.sums["loss"], state.sums["skipped"].float()])
        host = torch.empty(2, pin_memory=True)
        host.copy_(both, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._copy, self.seen = (host, event), state.seen
        return value

    def check(self, skipped: int, epoch: int) -> None:
        """End a fit whose loss is no number: at once, or in fp16 when scaling does not mend it.

        Raises:
            UserError: saying where.
        """
        if skipped >= (SKIPPED if self.state.scaler.is_enabled() else 1):
            raise UserError(
                f"The loss is not finite in epoch {epoch}, at step {self.state.step} or shortly before.",
                "Try a lower --lr, or --amp off on a GPU.",
            )


def set_train_mode(state: State, epoch: int) -> None:
    """Make a network ready to learn in an epoch, but for the stages that are frozen, and the function of its loss."""
    state.model.train()
    config, frozen = state.config, 0
    if config.model.freeze:
        groups = stages(state.model)
        frozen = frozen_stages(epoch, config.optim.epochs, len(groups), config.model.freeze, config.model.thaw)
        if config.model.thaw_on_plateau and thawed(state.scores, config.select.patience or 0):
            frozen = 0
        freeze(state.model, groups, frozen)
    if state.loss_of is None or frozen != state.frozen:
        state.loss_of = make_loss(state)
    state.frozen = frozen


def make_loss(state: State) -> Callable[..., tuple[Tensor, Tensor]]:
    """The function from a batch to its loss and how many are right, for several processes, and compiled if so set."""
    network = state.model
    if devices.world_size() > 1:
        state.parallel = nn.parallel.DistributedDataParallel(
            network,
            device_ids=[state.device] if state.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=state.config.model.checkpointing,
        )
        network = state.parallel

    def loss_of(
        pixels: Tensor, truth: Tensor, labels: Tensor, numbers: Tensor | None, weighted: bool
    ) -> tuple[Tensor, Tensor]:
        with state.precision.context():
            outputs = network(normalise(pixels, state.mean, state.std))
        loss = state.objective(outputs, truth, numbers, weighted)
        with torch.no_grad():
            right = (state.objective.target.probabilities(outputs).argmax(1) == labels).sum()
        return loss, right

    def of_batch(batch: Batch, augmenter: Augmenter, weighted: bool) -> tuple[Tensor, Tensor]:
        return loss_of(batch.images(augmenter), batch.truth, batch.labels, batch.numbers, weighted)

    if not state.config.run.compile:
        return of_batch
    # gradients that add up over several passes must not lie in the memory of a CUDA graph
    once = not state.micro and not state.config.optim.sam and devices.world_size() == 1
    mode = "reduce-overhead" if state.device.type == "cuda" and once else None
    made = torch.compile(of_batch, dynamic=False, fullgraph=devices.world_size() == 1, mode=mode, backend=BACKEND)

    def compiled(batch: Batch, augmenter: Augmenter, weighted: bool) -> tuple[Tensor, Tensor]:
        try:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            loss, right = made(batch, augmenter, weighted)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = str(getattr(error, "inner_exception", error)).strip().splitlines()[0][:200]
            raise UserError(f"The network cannot be compiled here: {why}", "Set run.compile=false.") from error
        return loss, right

    return compiled


BACKEND = "inductor"
"""What compiles a step; tests take another."""


def train_step(state: State, batch: Batch, augmenter: Augmenter, done: float = 0.0) -> tuple[Tensor, Tensor]:
    """One update.

    Args:
        augmenter: applies what is still to be done to the images.
        done: share of the training that is done.

    Returns:
        The loss, and how many images are right; on the device.

    Raises:
        UserError: memory does not do for a single image.
    """
    config = state.config.optim
    weighted = done >= state.objective.defer
    loss, right = gradients(state, batch, augmenter, weighted)
    if config.sam:
        before = sam_perturb(state.model, config.sam)
        state.optimizer.zero_grad(set_to_none=True)
        gradients(state, batch, augmenter, weighted)
        sam_restore(before)
    if config.clip:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return loss, right


def gradients(state: State, batch: Batch, augmenter: Augmenter, weighted: bool) -> tuple[Tensor, Tensor]:
    """Add up the gradients of a batch in parts that the memory can hold; smaller ones as soon as it runs out."""
    while True:
        try:
            return _backward(state, batch, augmenter, weighted)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and not any(t in str(error) for t in OUT_OF_MEMORY):
                raise
            size = min(state.micro or len(batch), len(batch))
            if size == 1 or devices.world_size() > 1:
                raise UserError(
                    f"The GPU has too little memory for {size} image{'s' * (size > 1)} at once.",
                    f"Set optim.micro_batch={max(1, size // 2)} or model.checkpointing=true, or choose a smaller model"
                    " or view.",
                ) from error
        # here the error and the graph that its traceback holds are gone
        state.optimizer.zero_grad(set_to_none=True)
        state.micro = (size + 1) // 2
        state.loss_of = make_loss(state)
        torch.cuda.empty_cache()


def _backward(state: State, batch: Batch, augmenter: Augmenter, weighted: bool) -> tuple[Tensor, Tensor]:
    assert state.loss_of is not None
    count = -(-len(batch) // state.micro) if state.micro else 1
    size = -(-len(batch) // count)
    losses, rights = [], []
    for start in range(0, len(batch), size):
        part = batch if count == 1 else batch[start : start + size]
        last = start + size >= len(batch)
        waits: Any = nullcontext() if last or state.parallel is None else state.parallel.no_sync()  # type: ignore[operator]
        with waits:
            loss, right = state.loss_of(part, augmenter, weighted)
            loss = loss * (len(part) / len(batch))
            with kept_buffers(state.model) if state.config.model.checkpointing else nullcontext():
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        rights.append(right)
    return torch.stack(losses).sum(), torch.stack(rights).sum()


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Crops uint8 [n, H, W, 3] to zero mean and unit deviation, float32 [n, 3, H, W] in channels_last.

    Args:
        mean, std: in 0..255, [1, 3, 1, 1].
    """
    return pixels.permute(0, 3, 1, 2).to(mean.dtype).sub_(mean).div_(std)


def predict(
    state: State, crops: Crops, pause: Callable[[], None] = lambda: None, network: nn.Module | None = None
) -> tuple[NDArray[np.float32], float]:
    """Probabilities float32 [n, C] of images in the order of their rows, and their mean negative log-likelihood.

    Several processes share the images.

    Args:
        network: one of the same kind in place of the state's.
    """
    rank, world = devices.rank(), devices.world_size()
    devices.broadcast_buffers(state.model, state.scored)
    rows = np.array_split(crops.rows, world)[rank] if world > 1 else crops.rows
    own = crops if world == 1 else Crops(crops.view, rows, crops.batch, crops.device)
    mirror, parts = state.config.run.tta == "mirror", []
    for part in probabilities_of(
        network or state.scored, state.objective.target, own, state.mean, state.std, state.precision, mirror
    ):
        parts.append(part)
        if world == 1:  # several processes cannot agree to stop here
            pause()
    here = torch.cat(parts).cpu().numpy() if parts else np.zeros((0, state.objective.target.classes), np.float32)
    joined = np.concatenate(devices.all_gather(here))
    known = crops.labels >= 0
    right = joined[known, crops.labels[known]].astype(np.float64)
    return joined, float(-np.log(np.maximum(right, 1e-12)).mean()) if len(right) else math.nan


def probabilities_of(
    model: nn.Module,
    target: Target,
    crops: Crops,
    mean: Tensor,
    std: Tensor,
    precision: Precision,
    mirror: bool = False,
) -> Iterator[Tensor]:
    """Probabilities float32 [n, C] batch by batch; with ``mirror`` the mean of both sides."""
    model.eval()
    with torch.inference_mode():
        for batch in crops:
            pixels = normalise(batch, mean, std)
            with precision.context():
                outputs = [model(v) for v in ([pixels, pixels.flip(3)] if mirror else [pixels])]
            yield torch.stack([target.probabilities(o) for o in outputs]).mean(0)
