"""What an evaluation finds: scores with their interval, parts of the images, and rivals on the same images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktrain.score import metrics, paired, slices
from masktrain.score.origins import Origin
from masktrain.score.questions import Questions


@dataclass(frozen=True)
class Rival:
    """Something else that answered the same images.

    Args:
        name: of the other run, or of a baseline.
        images: how many images both answered.
        macro_f1, accuracy, interval: its scores on them; the interval is of macro-F1.
        against: what is scored minus it.
    """

    name: str
    images: int
    macro_f1: float
    accuracy: float
    interval: metrics.Interval
    against: paired.Paired


@dataclass(frozen=True)
class Report:
    """Scores of a run, or of a file of predictions.

    Attributes:
        what: the images that were scored, in words.
        scores, interval: with the interval of macro-F1 over people.
        view: which crops the run looked at; empty for a file of predictions.
        ece: expected calibration error of the images that have a crop; None where there are no probabilities.
        slices: scores of parts of the images.
        rivals: another run, and baselines, on the same images.
        without_crop: images that have no crop; their answer is the most frequent training class.
        warnings: what a reader must know about these scores.
        file: the JSON file in the run folder, or beside the predictions.
        origins: where the errors come from, the costliest first.
    """

    run: str
    cache: str
    view: str
    what: str
    scores: metrics.Scores
    interval: metrics.Interval
    ece: float | None
    slices: list[slices.Slice]
    rivals: list[Rival]
    without_crop: list[str]
    warnings: list[str]
    file: Path
    origins: list[Origin] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in the JSON file."""
        return {k: v for k, v in asdict(self).items() if k != "file"}


def rival(name: str, asked: Questions, mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> Rival:
    """Compare answers [n] with those of something else to the same questions."""
    classes = int(max(asked.truth.max(), mine.max(), theirs.max())) + 1
    matrix = metrics.confusion(asked.truth, theirs, classes)
    return Rival(
        name,
        len(asked),
        metrics.macro_f1(matrix),
        metrics.accuracy(matrix),
        metrics.interval(asked.truth, theirs, asked.people, classes),
        paired.compare(asked.truth, mine, theirs, asked.people, classes),
    )
