"""Probabilities of a run's best model for the images of a view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from maskprep.dataset import View
from maskprep.errors import UsageError
from maskprep.labels.schema import Schema
from masktrain.learn import host, loop
from masktrain.learn.batches import Batches
from masktrain.learn.checkpoint import Sidecar, load_best
from masktrain.sections import MIRRORS
from masktrain.settings import nearest


@dataclass(frozen=True)
class Predictor:
    """A run's best model on a device."""

    model: nn.Module
    sidecar: Sidecar
    precision: host.Precision
    mirror: bool = False

    @property
    def schema(self) -> Schema:
        """What the model classifies."""
        return self.sidecar.labels()

    def __call__(self, view: View, rows: NDArray[np.int64], batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities float32 [n, C] of some rows of a view's table, in the order of the rows.

        The view is looked at as it is: :mod:`masktrain.predictors` puts the background behind it that a run wants.

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
        parts = loop.probabilities_of(
            self.model, self.sidecar.answers(), batches, mean, std.clamp(min=1.0), self.precision, self.mirror
        )
        return torch.cat(list(parts)).cpu().numpy()


def load(run: Path, device: str = "auto", amp: str = "auto", tta: str | None = None) -> Predictor:
    """The best model of a run on a device.

    Args:
        tta: ``mirror`` or ``none``; by default as the run was validated.

    Raises:
        UsageError: the folder is not a run, or the device is not here.
    """
    if tta not in (None, *MIRRORS):
        near = nearest(str(tta), MIRRORS)
        raise UsageError(f"There is no --tta '{tta}'.", f"Did you mean '{near[0]}'?" if near else "Use none or mirror.")
    chosen = host.choose_device(device)
    model, sidecar = load_best(run, chosen)
    return Predictor(model, sidecar, host.choose_precision(chosen, amp), (tta or sidecar.tta) == "mirror")
