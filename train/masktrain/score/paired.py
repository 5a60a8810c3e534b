"""Whether one set of answers is better than another on the same images: paired over people, with one verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masktrain.runs.predictions import Predictions
from masktrain.score import metrics

Ints = NDArray[np.int64]
DRAWS = 2000
LEVEL = 0.05
"""What p must be below for a difference to be called clear: of very few people, intervals alone say too much."""


@dataclass(frozen=True)
class Paired:
    """Difference of macro-F1 (first minus second), its 95 % bootstrap interval over people, and the two-sided p-value
    of a permutation test that swaps both answers of whole people."""

    difference: float
    low: float
    high: float
    p: float
    people: int

    @property
    def better(self) -> bool:
        """Whether the first is clearly better: by the interval and by the test."""
        return self.low > 0 and self.p < LEVEL

    @property
    def verdict(self) -> str:
        """What the interval and the test say together, in words."""
        if self.better:
            return "clearly better"
        return "clearly worse" if self.high < 0 and self.p < LEVEL else "within noise"

    @property
    def chance(self) -> str:
        """The p-value in words; it cannot be smaller than the number of draws allows."""
        return "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"


def compare(
    truth: Ints, first: Ints, second: Ints, people: NDArray[np.object_] | list[str], num_classes: int, seed: int = 0
) -> Paired:
    """Compare two predictions [n] of the same images.

    Photos of one person are not independent, so people are resampled, and people are swapped.
    """
    names, person = np.unique(np.asarray(people, dtype=str), return_inverse=True)
    k = len(names)

    def per_person(labels: Ints, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        flat = np.bincount(person[where] * num_classes + labels[where], minlength=k * num_classes)
        return flat.reshape(k, num_classes).astype(np.float64)

    everywhere = np.ones(len(truth), dtype=bool)
    support = per_person(truth, everywhere)
    hits = [per_person(truth, predicted == truth) for predicted in (first, second)]
    given = [per_person(predicted, everywhere) for predicted in (first, second)]

    def marks(hit: NDArray[np.float64], said: NDArray[np.float64], have: NDArray[np.float64]) -> NDArray[np.float64]:
        f1, present = metrics.f1_per_class(hit, have, said)
        return np.asarray((f1 * present).sum(1) / np.maximum(present.sum(1), 1))

    rng = np.random.default_rng(seed)
    weights = rng.multinomial(k, np.full(k, 1 / k), size=DRAWS).astype(np.float64)
    drawn = [marks(weights @ h, weights @ g, weights @ support) for h, g in zip(hits, given, strict=True)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])

    all_people = np.ones((1, k))
    whole = [marks(all_people @ h, all_people @ g, all_people @ support)[0] for h, g in zip(hits, given, strict=True)]
    swap = rng.integers(0, 2, size=(DRAWS, k)).astype(np.float64)
    have = np.tile(support.sum(0), (DRAWS, 1))
    swapped = [
        marks(s @ hits[0] + (1 - s) @ hits[1], s @ given[0] + (1 - s) @ given[1], have) for s in (swap, 1 - swap)
    ]
    difference = float(whole[0] - whole[1])
    extreme = int((np.abs(swapped[0] - swapped[1]) >= abs(difference) - 1e-12).sum())
    return Paired(difference, float(low), float(high), (1 + extreme) / (1 + DRAWS), k)


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


def beside(name: str, table: Predictions, answers: Ints, against: Paired | None) -> Comparison:
    """Scores of answers [n] to the images of a table."""
    matrix = metrics.confusion(table.labels, answers, table.schema.num_classes)
    interval = metrics.interval(table.labels, answers, table.people.tolist(), table.schema.num_classes)
    return Comparison(name, len(table), metrics.macro_f1(matrix), metrics.accuracy(matrix), interval, against)


def between(table: Predictions, first: Ints, second: Ints) -> Paired:
    """Compare two sets of answers [n] to the images of a table, see :func:`compare`."""
    return compare(table.labels, first, second, table.people.tolist(), table.schema.num_classes)
