"""Whether the background gives the label away: how well a class is told from the background's mean colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
FEWEST = 20
"""People below whom nothing is said."""
DRAWS = 400
"""Draws of people for the interval."""
SLIGHT, STRONG = 0.1, 0.3
"""Parts of the way from guessing to certainty: below the first the background tells little, above the other a lot."""


@dataclass(frozen=True)
class Leak:
    """How well a class is told from the background's colour, for people who were not learnt from.

    Attributes:
        recall, low, high: mean share of right answers over the classes, with its 95 % interval over people.
        chance: the same for a guess.
        people: how many it is taken over.
    """

    recall: float
    low: float
    high: float
    chance: float
    people: int

    @property
    def verdict(self) -> str:
        """``no``, ``unclear``, ``slightly``, ``partly`` or ``strongly``.

        It is unclear where the interval holds both a guess and a strong effect.
        """
        way, most = ((share - self.chance) / (1 - self.chance) for share in (self.recall, self.high))
        if self.low <= self.chance:
            return "no" if most < STRONG else "unclear"
        return "slightly" if way < SLIGHT else "partly" if way < STRONG else "strongly"


def leak(colours: NDArray[np.float64], classes: NDArray[np.int64], people: Sequence[str]) -> Leak | None:
    """Learn a class from mean colour and brightness of the background by linear discriminants, for each fifth of the
    people from the others.

    Args:
        colours: of each image's background, 0..1 [n, 3], NaN where it is not known.
        classes: index of each image's class [n], -1 for none.
        people: who is on each image [n].

    Returns:
        None where fewer than two classes, or fewer than :data:`FEWEST` people, are there.
    """
    usable = np.isfinite(colours).all(1) & (classes >= 0)
    x, (names, y) = colours[usable], np.unique(classes[usable], return_inverse=True)
    who, person = np.unique(np.asarray(people, dtype=str)[usable], return_inverse=True)
    if len(names) < 2 or len(who) < FEWEST:
        return None
    brightness = x.mean(1, keepdims=True)
    x = np.concatenate([x, brightness**2], axis=1)
    fold = np.random.default_rng(0).permutation(len(who))[person] % FOLDS
    answers = np.empty(len(y), dtype=np.int64)
    for k in range(FOLDS):
        held = fold == k
        answers[held] = _discriminate(x[~held], y[~held], x[held], len(names))
    hits, support = (
        np.bincount(person * len(names) + y, weights, len(who) * len(names)).reshape(len(who), len(names))
        for weights in ((answers == y).astype(np.float64), np.ones(len(y)))
    )
    drawn = np.random.default_rng(1).multinomial(len(who), np.full(len(who), 1 / len(who)), DRAWS).astype(np.float64)
    low, high = np.quantile(_recall(drawn @ hits, drawn @ support), [0.025, 0.975])
    recall = float(_recall(hits.sum(0)[None], support.sum(0)[None])[0])
    return Leak(recall, min(float(low), recall), max(float(high), recall), 1 / len(names), len(who))


def _recall(hits: NDArray[np.float64], support: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean recall [m] over the classes that occur, of counts [m, C]."""
    there = support > 0
    return np.asarray((hits / np.where(there, support, 1)).sum(1) / there.sum(1))


def _discriminate(
    x: NDArray[np.float64], y: NDArray[np.int64], asked: NDArray[np.float64], classes: int
) -> NDArray[np.int64]:
    """Classes of ``asked`` by linear discriminants with equal priors of the classes that ``x`` [n, d] has."""
    counts = np.bincount(y, minlength=classes)
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, y, x)
    means /= np.maximum(counts, 1)[:, None]
    within = x - means[y]
    spread = within.T @ within / len(x)
    spread += np.eye(len(spread)) * (1e-3 * np.trace(spread) / len(spread) + 1e-9)
    weights = np.linalg.solve(spread, means.T)
    scores = asked @ weights - 0.5 * (means.T * weights).sum(0)
    return np.asarray(np.where(counts > 0, scores, -np.inf).argmax(1), dtype=np.int64)
