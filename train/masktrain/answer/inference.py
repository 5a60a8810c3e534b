"""Probabilities of a run's best model for the images of a view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError
from maskprep.dataset import View
from maskprep.labels import Schema
from masktrain.config.settings import nearest
from masktrain.train import host, loop
from masktrain.train.batches import Batches
from masktrain.train.checkpoint import Sidecar, load_best
from masktrain.train.targets import Target

LOOKS = ("none", "mirror", "shifts", "mirror+shifts")
MEANS = ("probability", "logit")

SHIFT = 1 / 24
"""How far the shifted crops are moved, relative to the crop: less than the margin of any face."""


@dataclass(frozen=True)
class Predictor:
    """A run's best model on a device.

    Args:
        looks: one of LOOKS, what is averaged: the crop alone, with its mirror image, moved to four sides, or all.
        mean: of the ``probability`` or of its ``logit``, the logarithm (a geometric mean).
    """

    model: nn.Module
    sidecar: Sidecar
    precision: host.Precision
    looks: str = "none"
    mean: str = "probability"

    @property
    def mirror(self) -> bool:
        """Whether mirror images count too."""
        return "mirror" in self.looks

    @property
    def schema(self) -> Schema:
        """What the model classifies."""
        return self.sidecar.labels()

    def __call__(self, view: View, rows: NDArray[np.int64], batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities float32 [n, C] of some rows of a view's table, in the order of the rows.

        The view is looked at as it is: :mod:`masktrain.answer.predictors` puts the background
        behind it that a run wants.

        Raises:
            UsageError: the crops have another size than those the model was trained on.
        """
        if list(view.size) != list(self.sidecar.size):
            wanted = "x".join(map(str, self.sidecar.size))
            raise UsageError(
                f"The model was trained on crops of {wanted}, view '{view.name}' of {view.path} has"
                f" {view.size[0]}x{view.size[1]}.",
                f"Make such a view with: maskprep crop {view.path} --size {wanted} --view NAME",
            )
        if not len(rows):
            return np.zeros((0, len(self.sidecar.classes)), dtype=np.float32)
        mean, std = (
            torch.tensor(v, dtype=torch.float64).mul(255).float().view(1, 3, 1, 1).to(self.precision.device)
            for v in (self.sidecar.mean, self.sidecar.std)
        )
        batches = Batches(view, rows, batch_size, self.precision.device)
        scale = std.clamp(min=1.0)
        if self.looks in ("none", "mirror") and self.mean == "probability":  # as in training, to the last bit
            target = self.sidecar.answers()
            parts = loop.probabilities_of(self.model, target, batches, mean, scale, self.precision, self.mirror)
        else:
            parts = self._averaged(batches, mean, scale)
        return torch.cat(list(parts)).cpu().numpy()

    def _averaged(self, batches: Batches, mean: Tensor, std: Tensor) -> Iterator[Tensor]:
        """Probabilities float32 [n, C] batch by batch, the mean over all looks at the crops."""
        with torch.inference_mode():
            for batch in batches.epoch(None):
                pixels = loop.normalise(batch.pixels, mean, std)
                with self.precision.context():
                    outputs = [self.model(view) for view in looks_at(pixels, self.looks)]
                yield average(outputs, self.sidecar.answers(), self.mean)


def looks_at(pixels: Tensor, looks: str) -> Iterator[Tensor]:
    """What a network is shown of crops [n, 3, H, W], one of LOOKS.

    A shifted crop is filled up with its own border, so that nothing is scaled.
    """
    height, width = pixels.shape[2:]
    dy, dx = max(1, round(SHIFT * height)), max(1, round(SHIFT * width))
    turned: list[Callable[[Tensor], Tensor]] = [lambda p: p]
    if "mirror" in looks:
        turned.append(lambda p: p.flip(3))
    places = [(dy, dx)]
    if "shifts" in looks:
        places += [(0, dx), (2 * dy, dx), (dy, 0), (dy, 2 * dx)]
    wide = nn.functional.pad(pixels, (dx, dx, dy, dy), mode="replicate") if len(places) > 1 else None
    for y, x in places:
        seen = pixels if wide is None else wide[:, :, y : y + height, x : x + width]
        for turn in turned:
            yield turn(seen)


def average(outputs: list[Tensor], target: Target, mean: str) -> Tensor:
    """Probabilities [n, C] of a network's outputs [n, outputs] for several looks: their mean, one of MEANS."""
    tables = torch.stack([target.probabilities(o) for o in outputs])
    if mean == "probability":
        return tables.mean(0)
    return tables.clamp(min=1e-12).log().mean(0).softmax(1)


def load(
    run: Path, device: str = "auto", amp: str = "auto", tta: str | None = None, mean: str = "probability"
) -> Predictor:
    """The best model of a run on a device.

    Args:
        tta: one of LOOKS; by default as the run was validated.
        mean: one of MEANS.

    Raises:
        UsageError: the folder is not a run, or the device is not here.
    """
    for name, value, known in (("tta", tta, LOOKS), ("tta-mean", mean, MEANS)):
        if value not in (None, *known):
            near = nearest(str(value), known)
            hint = f"Did you mean '{near[0]}'?" if near else f"Use {', '.join(known)}."
            raise UsageError(f"There is no --{name} '{value}'.", hint)
    chosen = host.choose_device(device)
    model, sidecar = load_best(run, chosen)
    return Predictor(model, sidecar, host.choose_precision(chosen, amp), tta or sidecar.tta, mean)
