"""Answers that look at no picture: the most frequent class, and chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 0

Ints = NDArray[np.int64]


def rows(counts: NDArray[np.float64], n: int) -> list[tuple[str, Ints]]:
    """Each guess's name and its answers [n].

    Args:
        counts: training images of each class.
    """
    return [("most frequent class", majority(counts, n)), ("chance (as often as in training)", chance(counts, n))]


def majority(counts: NDArray[np.float64], n: int) -> Ints:
    """The most frequent training class, always."""
    return np.full(n, int(counts.argmax()), dtype=np.int64)


def chance(counts: NDArray[np.float64], n: int) -> Ints:
    """Classes drawn as often as they occur in training."""
    drawn: Ints = np.random.default_rng(SEED).choice(len(counts), size=n, p=counts / counts.sum())
    return drawn
