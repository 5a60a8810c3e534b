"""Whether one set of answers is better than another on the same images: paired over people, with one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masktrain.runs.predictions import Predictions
from masktrain.score import metrics
from masktrain.score.metrics import Answers

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Paired:
    """Difference of macro-F1 (first minus second) and its 95 % interval over people, from leaving each of them out."""

    difference: float
    low: float
    high: float
    people: int

    @property
    def better(self) -> bool:
        """Whether the first is clearly better: the interval lies above 0."""
        return self.low > 0

    @property
    def verdict(self) -> str:
        """What the interval says, in words."""
        if self.people < metrics.FEW:
            return "too few people"
        return "clearly better" if self.better else "clearly worse" if self.high < 0 else "within noise"

    @property
    def numbers(self) -> str:
        """Difference, and its interval where there is one."""
        between = f" ({self.low:+.4f} to {self.high:+.4f})" if self.people >= metrics.FEW else ""
        return f"{self.difference:+.4f}{between}"

    @property
    def text(self) -> str:
        """Difference, interval and verdict."""
        return f"{self.numbers}, {self.verdict}"


def compare(
    truth: Ints, first: Answers, second: Answers, people: Sequence[str] | NDArray[np.object_], num_classes: int
) -> Paired:
    """Compare two predictions of the same images, see :func:`masktrain.score.metrics.interval`; here t of the
    difference itself."""
    counts = [metrics.Counts.of(truth, answers, people, num_classes) for answers in (first, second)]
    one, other = (metrics.macro_f1(metrics.confusion(truth, a, num_classes)) for a in (first, second))
    difference, k = one - other, len(counts[0].hits)
    if k < metrics.FEW:
        return Paired(difference, -1.0, 1.0, k)
    (middle, moved), (less, unmoved) = (c.left_out() for c in counts)
    reach = metrics.quantile(k) * float(np.sqrt(((moved - unmoved) ** 2).sum()))
    low, high = middle - less - reach, middle - less + reach
    return Paired(difference, min(low, difference), max(high, difference), k)


@dataclass(frozen=True)
class Comparison:
    """The scores of some answers beside others to the same images.

    Args:
        name: whose answers they are.
        images: how many.
        macro_f1, accuracy, interval: of these answers; the interval is of macro-F1 over people.
        against: compared with the others; None where they are the reference themselves.
    """

    name: str
    images: int
    macro_f1: float
    accuracy: float
    interval: metrics.Interval
    against: Paired | None


def beside(name: str, table: Predictions, answers: Answers, against: Paired | None) -> Comparison:
    """Scores of answers to the images of a table."""
    matrix = metrics.confusion(table.labels, answers, table.schema.num_classes)
    interval = metrics.interval(table.labels, answers, table.people.tolist(), table.schema.num_classes)
    return Comparison(name, len(table), metrics.macro_f1(matrix), metrics.accuracy(matrix), interval, against)


def between(table: Predictions, first: Answers, second: Answers) -> Paired:
    """Compare two sets of answers to the images of a table, see :func:`compare`."""
    return compare(table.labels, first, second, table.people.tolist(), table.schema.num_classes)
