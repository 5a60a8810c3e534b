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
Answers = NDArray[Any]
"""Classes int64 [n], or of answers that are guessed the shares of the classes float64 [n, C]."""
CHANCE = "chance (as often as in training)"


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

    @property
    def rows(self) -> list[dict[str, object]]:
        """The whole label and each attribute, with macro-F1 and accuracy, as rows of a table."""
        whole: dict[str, object] = {"label": "all", "macro-F1": self.macro_f1, "accuracy": self.accuracy}
        parts = self.attributes.items()
        return [whole, *({"label": k, "macro-F1": v["macro_f1"], "accuracy": v["accuracy"]} for k, v in parts)]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in JSON files."""
        return asdict(self)


FEW = 8
"""People below whom there is no interval: of 6 it would span half of the scale or more (benchmarks/coverage.py)."""
LEVEL = 0.95


def between(low: float, high: float, people: int, form: str = ".4f") -> str:
    """An interval over so many people, in words where these are too few."""
    return f"{low:{form}} to {high:{form}}" if people >= FEW else "too few people"


@dataclass(frozen=True)
class Interval:
    """An interval over people, see :func:`interval`; everything is possible of fewer people than :data:`FEW`."""

    low: float
    high: float
    level: float
    people: int

    def text(self, form: str = ".4f") -> str:
        """Its ends, or that there are too few people."""
        return between(self.low, self.high, self.people, form)


def confusion(truth: Ints, predicted: Answers, num_classes: int) -> NDArray[Any]:
    """Confusion matrix [num_classes, num_classes], rows the truth, columns the predictions."""
    if predicted.ndim == 2:
        return np.eye(num_classes)[truth].T @ predicted
    flat = np.bincount(truth.astype(np.int64) * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def f1_per_class(hits: NDArray[Any], support: NDArray[Any], predicted: NDArray[Any]) -> tuple[Floats, Any]:
    """F1 of each class, 0 where undefined, and which classes occur in truth or prediction (boolean)."""
    total = (support + predicted).astype(np.float64)
    return 2.0 * hits / np.where(total > 0, total, 1.0), total > 0


def macro_f1(matrix: NDArray[Any]) -> float:
    """Mean F1 over the classes that occur in truth or prediction; 0 when there are none."""
    f1, present = f1_per_class(np.diag(matrix), matrix.sum(1), matrix.sum(0))
    return float(f1[present].mean()) if present.any() else 0.0


def accuracy(matrix: NDArray[Any]) -> float:
    """Share of right predictions; 0 when there are none."""
    return float(np.trace(matrix) / max(float(matrix.sum()), 1.0))


def per_attribute(matrix: NDArray[Any], schema: Schema) -> dict[str, NDArray[Any]]:
    """Confusion matrix of each attribute of the joint label, summed out of the joint matrix."""
    sizes, k = schema.sizes, len(schema.sizes)
    cube = matrix.reshape(*sizes, *sizes)
    return {
        name: cube.sum(axis=tuple(a for a in range(2 * k) if a not in (i, k + i)))
        for i, name in enumerate(schema.joint)
    }


def score(
    truth: Ints,
    predicted: Answers,
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


@dataclass(frozen=True)
class Counts:
    """What a score is made of, by person and class [people, num_classes]: right answers, images, and answers."""

    hits: Floats
    support: Floats
    given: Floats

    @classmethod
    def of(
        cls, truth: Ints, predicted: Answers, people: Sequence[str] | NDArray[np.object_], num_classes: int
    ) -> Counts:
        """Count predictions of images [n]."""
        names, person = np.unique(np.asarray(people, dtype=str), return_inverse=True)

        def count(labels: Ints, weights: Any = None, who: Ints = person) -> Floats:
            size = len(names) * num_classes
            return np.bincount(who * num_classes + labels, weights, size).astype(np.float64).reshape(-1, num_classes)

        if predicted.ndim == 2:
            hits = count(truth, predicted[np.arange(len(truth)), truth])
            every = np.tile(np.arange(num_classes), len(truth))
            return cls(hits, count(truth), count(every, predicted.ravel(), np.repeat(person, num_classes)))
        return cls(count(truth, truth == predicted), count(truth), count(predicted))

    def left_out(self) -> tuple[float, Floats]:
        """Macro-F1 over the classes of the truths, and what each person's absence adds to it, less the mean [people].

        The root of the sum of its squares is the jackknife's standard error. Without one of the n people who have a
        class its F1 moves too far, by up to n / (n - 1) in the square, and half of that is taken back; halves cover
        best in benchmarks/coverage.py. Without the only one the class is gone.
        """
        hits, support, given = self.hits.sum(0), self.support.sum(0), self.given.sum(0)
        f1, _ = f1_per_class(hits, support, given)
        without, _ = f1_per_class(hits - self.hits, support - self.support, given - self.given)
        n = np.maximum((self.support > 0).sum(0), 2)
        without = f1 + (without - f1) * ((n - 1) / n) ** 0.25
        occurs = support - self.support > 0
        means = (without * occurs).sum(1) / np.maximum(occurs.sum(1), 1)
        return float(f1[support > 0].mean()) if support.any() else 0.0, means - means.mean()


def quantile(people: int) -> float:
    """Student's t at the upper end of :data:`LEVEL`."""
    from scipy.special import stdtrit

    return float(stdtrit(people - 1, (1 + LEVEL) / 2))


def interval(truth: Ints, predicted: Answers, people: Sequence[str], num_classes: int) -> Interval:
    """95 % interval of macro-F1 from leaving out whole people (their photos are not independent): t, of the logit.

    Its middle is the mean over the classes that occur among the truths; it is widened to hold :func:`macro_f1`. Where
    all people are alike, all right for one, it is that of a binomial share of people.
    """
    counts = Counts.of(truth, predicted, people, num_classes)
    return _interval(counts, macro_f1(confusion(truth, predicted, num_classes)), len(counts.hits))


def class_intervals(truth: Ints, predicted: Ints, people: Sequence[str], num_classes: int) -> list[Interval]:
    """Intervals of each class's F1 over the people who have it, see :func:`interval`."""
    counts = Counts.of(truth, predicted, people, num_classes)
    each = [Counts(*(part[:, [k]] for part in (counts.hits, counts.support, counts.given))) for k in range(num_classes)]
    return [_interval(own, own.left_out()[0], int((own.support > 0).sum())) for own in each]


def share_interval(right: NDArray[np.bool_], people: Sequence[str]) -> Interval:
    """Interval of the share of right answers [n], see :func:`interval`."""
    counts = Counts.of(np.zeros(len(right), dtype=np.int64), np.where(right, 0, 1), people, 2)
    images = counts.support[:, :1]
    return _interval(Counts(counts.hits[:, :1], images, images), float(right.mean()), len(images))


def _interval(counts: Counts, shown: float, people: int) -> Interval:
    if people < FEW:
        return Interval(0.0, 1.0, LEVEL, people)
    middle, moved = counts.left_out()
    error = float(np.sqrt((moved**2).sum()))
    if error > 1e-12:
        logit, reach = np.log(middle / (1 - middle)), quantile(people) * error / (middle * (1 - middle))
        low, high = (float(1 / (1 + np.exp(-end))) for end in (logit - reach, logit + reach))
    else:
        reach = 1 - ((1 - LEVEL) / 2) ** (1 / people)
        low, high = max(middle - reach, 0.0), min(middle + reach, 1.0)
    return Interval(min(low, shown), max(high, shown), LEVEL, people)


def guesses(counts: Floats, n: int) -> list[tuple[str, Answers]]:
    """Answers that look at no picture, with their names: the most frequent training class [n], and what is expected of
    classes drawn as often as they occur in training, shares [n, C].

    Args:
        counts: training images of each class.
    """
    frequent = np.full(n, int(counts.argmax()), dtype=np.int64)
    return [("most frequent class", frequent), (CHANCE, np.tile(counts / counts.sum(), (n, 1)))]


def nll(probabilities: NDArray[np.floating[Any]], labels: Ints) -> float:
    """Mean negative log-likelihood of labels [n] by probabilities [n, C]."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())
