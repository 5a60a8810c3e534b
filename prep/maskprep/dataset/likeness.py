"""Pictures as points: what looks alike lies near each other."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from maskprep.photos import Pixels

SIDE = 16
DIMENSIONS, AXES_FROM = 32, 4000
"""Components that are kept, and from how many pictures at least they are found."""

NEIGHBOURS = 10


def appearance(pictures: Iterable[Pixels], dimensions: int = DIMENSIONS) -> NDArray[np.float64]:
    """What sets pictures apart: principal components of their colours on a grid of 16x16, relative to the picture's
    median colour; the widest first.

    Args:
        pictures: uint8 [h, w, 3] RGB, of one size.
        dimensions: most components; fewer where there are fewer pictures.

    Returns:
        float64 [n, d]; the sign of a component is such that its largest weight is positive.
    """
    grids = [_grid(picture) for picture in pictures]
    if not grids:
        return np.empty((0, 0))
    values = np.array(grids)
    values = (values - values.mean(axis=0)) / (values.std(axis=0) + 1)
    some = values[:: max(1, len(values) // AXES_FROM)].astype(np.float64)
    _, axes = np.linalg.eigh(some.T @ some)
    axes = axes[:, ::-1][:, : min(dimensions, len(values))]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return np.asarray(values @ axes.astype(np.float32), np.float64)


def _grid(picture: Pixels) -> NDArray[np.float32]:
    """CIELAB on the grid less its median, float32 [768]."""
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    return np.asarray(lab - np.median(lab, axis=0), np.float32).ravel()


def neighbours(points: NDArray[np.float64], count: int = NEIGHBOURS) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest other points of each point, the nearest first.

    Args:
        points: [n, d].
        count: how many; fewer where there are fewer points.

    Returns:
        Rows int64 [n, count] and their distances float64 [n, count].
    """
    count = min(count, len(points) - 1)
    rows, distances = np.empty((len(points), count), np.int64), np.empty((len(points), count))
    squares = (points**2).sum(axis=1)
    for start in range(0, len(points), 512):  # in blocks: the table of all pairs would be large
        block = slice(start, start + 512)
        far = np.maximum(0, squares[block, None] - 2 * points[block] @ points.T + squares)
        own = np.arange(len(far))
        far[own, own + start] = np.inf
        nearest = np.argsort(far, axis=1, kind="stable")[:, :count]
        rows[block], distances[block] = nearest, np.sqrt(far[own[:, None], nearest])
    return rows, distances
