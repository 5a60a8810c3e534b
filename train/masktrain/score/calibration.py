"""Probabilities that mean what they say, and decision thresholds: fitted on out-of-fold predictions, never on training
images. NumPy only, so that exported models can use it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UserError, read_json

FILE = "calibration.json"
TINY = 1e-12
MEND = "Make it again with: masktrain calibrate RUN"

Table = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """What is done to a model's probabilities, and how a class is decided on.

    Args:
        temperature: probabilities become p^(1/T), normalised; above 1 they get less sure (arXiv 1706.04599).
        thresholds: factor per class before the largest is taken, or None for all alike.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None

    def temper(self, probabilities: Table) -> NDArray[np.float32]:
        """Tempered probabilities float32 [n, C]."""
        if self.temperature == 1.0 or not len(probabilities):
            return probabilities.astype(np.float32)
        logs = np.log(np.maximum(probabilities.astype(np.float64), TINY)) / self.temperature
        powers = np.exp(logs - logs.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True), dtype=np.float32)

    def decide(self, probabilities: Table) -> Ints:
        """The class of each row [n] of tempered probabilities; the lowest index wins a tie."""
        weighted = probabilities if self.thresholds is None else probabilities * np.array(self.thresholds)
        return np.asarray(weighted.argmax(1), dtype=np.int64)

    def to_json(self) -> str:
        """The form kept in calibration.json and in exported files."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any], classes: int, file: str) -> Calibration:
        """Read the form that :meth:`to_json` writes.

        Raises:
            UserError: it is none for so many classes, naming the file.
        """
        try:
            thresholds = data.get("thresholds")
            made = cls(float(data["temperature"]), None if thresholds is None else tuple(map(float, thresholds)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} holds no calibration.", MEND) from error
        factors = (made.temperature, *(made.thresholds or ()))
        if not all(0 < f < math.inf for f in factors) or (made.thresholds and len(made.thresholds) != classes):
            raise UserError(f"{file} does not fit this model.", MEND)
        return made


def load(run: Path, classes: int) -> Calibration:
    """calibration.json of a run; without one nothing is done to its probabilities.

    Raises:
        UserError: the file is broken.
    """
    file = run / FILE
    if not file.is_file():
        return Calibration()
    return Calibration.from_dict(read_json(file, {}, MEND), classes, str(file))


def ece(probabilities: Table, labels: Ints, bins: int = 15) -> float:
    """Expected calibration error, 0..1: how far the largest probability is from the share of right answers.

    The mean over bins of equal width, weighted by how many images fall into each (Guo et al., arXiv 1706.04599).
    """
    if not len(labels):
        return 0.0
    sure = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, weights=right - sure, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
