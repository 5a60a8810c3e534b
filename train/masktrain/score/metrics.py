"""Scores, all from one confusion matrix.

Macro-F1 is the mean of F1 over the classes that occur among the truths or the predictions, as in scikit-learn's
``f1_score(average="macro", zero_division=0)``: a class that neither occurs nor is predicted has no F1 and does not
count. The mean over all classes of the schema, absent ones as 0, is reported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.labels import Schema
from masktrain.runs.predictions import Predictions

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScore:
    """One class: how many images have it (support) and get it (predicted), and how well they agree."""

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions.

    Attributes:
        attributes: accuracy and macro-F1 of each attribute.
        balanced_accuracy: mean recall of the classes that occur among the truths.
        log_loss: mean negative log-likelihood of the truths; None where there are no probabilities.
        mae: mean absolute error of each attribute that is answered with a number, in its unit.
    """

    n: int
    macro_f1: float
    macro_f1_all: float
    accuracy: float
    attributes: dict[str, dict[str, float]]
    classes: tuple[ClassScore, ...]
    balanced_accuracy: float = 0.0
    log_loss: float | None = None
    mae: dict[str, float] = field(default_factory=dict)

    @property
    def beside(self) -> list[tuple[str, str]]:
        """Names and values, as text, of the scores of all images that stand beside macro-F1 and accuracy."""
        found = [("balanced accuracy", f"{self.balanced_accuracy:.4f}")]
        found += [] if self.log_loss is None else [("log-loss", f"{self.log_loss:.4f}")]
        return found + [(f"mean absolute error of {name}", f"{error:.2f}") for name, error in self.mae.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in JSON files."""
        return asdict(self)


@dataclass(frozen=True)
class Interval:
    """A percentile interval from resampling people."""

    low: float
    high: float
    level: float
    people: int


def confusion(truth: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Confusion matrix [num_classes, num_classes], rows the truth, columns the predictions."""
    flat = np.bincount(truth.astype(np.int64) * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def f1_per_class(hits: Floats | Ints, support: Floats | Ints, predicted: Floats | Ints) -> tuple[Floats, Any]:
    """F1 of each class, 0 where undefined, and which classes occur in truth or prediction (boolean)."""
    total = (support + predicted).astype(np.float64)
    return 2.0 * hits / np.where(total > 0, total, 1.0), total > 0


def macro_f1(matrix: Ints) -> float:
    """Mean F1 over the classes that occur in truth or prediction; 0 when there are none."""
    f1, present = f1_per_class(np.diag(matrix), matrix.sum(1), matrix.sum(0))
    return float(f1[present].mean()) if present.any() else 0.0


def accuracy(matrix: Ints) -> float:
    """Share of right predictions; 0 when there are none."""
    return float(np.trace(matrix) / max(int(matrix.sum()), 1))


def per_attribute(matrix: Ints, schema: Schema) -> dict[str, Ints]:
    """Confusion matrix of each attribute of the joint label, summed out of the joint matrix."""
    sizes, k = schema.sizes, len(schema.sizes)
    cube = matrix.reshape(*sizes, *sizes)
    return {
        name: cube.sum(axis=tuple(a for a in range(2 * k) if a not in (i, k + i)))
        for i, name in enumerate(schema.joint)
    }


def score(
    truth: Ints,
    predicted: Ints,
    schema: Schema,
    probabilities: NDArray[np.floating[Any]] | None = None,
    numbers: Mapping[str, tuple[Floats, Floats]] | None = None,
) -> Scores:
    """All scores of joint predictions against joint labels (both [n]).

    Args:
        probabilities: of the joint classes [n, C]; rows that are NaN have none.
        numbers: attribute -> the true numbers and those answered, both [n], NaN where one is not known.
    """
    matrix = confusion(truth, predicted, schema.num_classes)
    hits, support, given = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    f1, _ = f1_per_class(hits, support, given)
    precision, recall = hits / np.maximum(given, 1), hits / np.maximum(support, 1)
    known = np.isfinite(probabilities).all(1) if probabilities is not None else np.zeros(len(truth), dtype=bool)
    gaps = {name: np.abs(true - told) for name, (true, told) in (numbers or {}).items()}
    return Scores(
        n=len(truth),
        macro_f1=macro_f1(matrix),
        macro_f1_all=float(f1.mean()) if len(f1) else 0.0,
        accuracy=accuracy(matrix),
        attributes={
            name: {"accuracy": accuracy(m), "macro_f1": macro_f1(m)}
            for name, m in per_attribute(matrix, schema).items()
        },
        classes=tuple(
            ClassScore(name, int(support[i]), int(given[i]), float(precision[i]), float(recall[i]), float(f1[i]))
            for i, name in enumerate(schema.class_names)
        ),
        balanced_accuracy=float(recall[support > 0].mean()) if support.any() else 0.0,
        log_loss=nll(probabilities[known], truth[known]) if probabilities is not None and known.any() else None,
        mae={name: float(np.nanmean(gap)) for name, gap in gaps.items() if np.isfinite(gap).any()},
    )


def score_table(table: Predictions, known: Mapping[str, Floats]) -> Scores:
    """All scores of a table of predictions; ``known`` are the numbers behind its classes, NaN where nobody knows."""
    own = table.probabilities if table.scored is None else np.where(table.scored[:, None], table.probabilities, np.nan)
    numbers = {name: (known[name], told) for name, told in table.numbers.items() if name in known}
    return score(table.labels, table.answers, table.schema, own, numbers)


def interval(
    truth: Ints,
    predicted: Ints,
    people: Sequence[str],
    num_classes: int,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of macro-F1, resampling whole people (their photos are not independent)."""
    f1, present, found = _resampled(truth, predicted, people, num_classes, draws, seed)
    values = (f1 * present).sum(1) / present.sum(1)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, found)


def class_intervals(
    truth: Ints,
    predicted: Ints,
    people: Sequence[str],
    num_classes: int,
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Percentile bootstrap intervals of each class's F1 over people: lower and upper ends [num_classes]."""
    f1, _, _ = _resampled(truth, predicted, people, num_classes, draws, seed)
    low, high = np.quantile(f1, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _resampled(
    truth: Ints, predicted: Ints, people: Sequence[str], num_classes: int, draws: int, seed: int
) -> tuple[Floats, NDArray[np.bool_], int]:
    """F1 of each class and whether it occurs, both [draws, num_classes], for resampled people; and their number."""
    names, person = np.unique(np.asarray(people, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    right = truth == predicted
    values, present = np.empty((draws, num_classes)), np.empty((draws, num_classes), dtype=np.bool_)
    for i in range(draws):
        weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[person].astype(np.float64)
        support = np.bincount(truth, weights=weight, minlength=num_classes)
        given = np.bincount(predicted, weights=weight, minlength=num_classes)
        hits = np.bincount(truth, weights=weight * right, minlength=num_classes)
        values[i], present[i] = f1_per_class(hits, support, given)
    return values, present, len(names)


def guesses(counts: Floats, n: int) -> list[tuple[str, Ints]]:
    """Answers [n] that look at no picture, with their names: the most frequent training class, and classes drawn as
    often as they occur in training.

    Args:
        counts: training images of each class.
    """
    drawn = np.random.default_rng(0).choice(len(counts), size=n, p=counts / counts.sum())
    frequent = np.full(n, int(counts.argmax()), dtype=np.int64)
    return [("most frequent class", frequent), ("chance (as often as in training)", drawn.astype(np.int64))]


def nll(probabilities: NDArray[np.floating[Any]], labels: Ints) -> float:
    """Mean negative log-likelihood of labels [n] by probabilities [n, C]."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())
