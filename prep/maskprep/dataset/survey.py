"""What the pixels of a view are like: a histogram per channel, mean faces of classes, colours of the backgrounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskprep.crops import CHANNELS, SOLID
from maskprep.dataset.sheet import groups
from maskprep.dataset.view import View

EDGE = 0.1
"""Share of a crop's height and width that counts as its edge, on top and in the upper half of both sides: below are
shoulders."""
BACKGROUND = 0.05
"""Share of a crop that its matte must leave to the background."""
ENOUGH = 0.9
"""Share of the crops whose matte shows a background, from which on mattes say what the background is."""
FACES = 24
"""Classes whose mean face is taken; of more of them the largest and the smallest."""


@dataclass(frozen=True)
class Survey:
    """What the crops of a view show.

    Attributes:
        whole, foreground: how many pixels have each value, int64 [3, 256], over all crops and over the subjects'
            pixels (zero without mattes).
        faces: per class its name, how many crops, and their mean, uint8 [H, W, 3].
        grounds: mean colour of each crop's background, 0..1 float64 [n, 3], NaN where it is not known.
        by_matte: whether the background is what the mattes leave, not the edge of the crop.
    """

    whole: NDArray[np.int64]
    foreground: NDArray[np.int64]
    faces: list[tuple[str, int, NDArray[np.uint8]]]
    grounds: NDArray[np.float64]
    by_matte: bool


def survey(view: View, advance: Callable[[int], None] = lambda n: None) -> Survey:
    """Read every crop of a view once.

    A crop may be in several groups of the contact sheet (an unusual status and a class); means are of classes alone.
    """
    classes = ends([(name, rows) for name, rows in groups(view) if not name.startswith("status: ")], FACES)
    group = np.full(len(view), -1)
    for number, (_, rows) in enumerate(classes):
        group[rows] = number
    totals = np.zeros((len(classes), *view.size, 3), np.int64)
    whole, foreground = np.zeros((3, 256), np.int64), np.zeros((3, 256), np.int64)
    edges, matted = np.empty((len(view), 3)), view.table["matte"].notna().to_numpy()
    for row in range(len(view)):
        pixels = view.gather_original([row])[0]
        whole += _histogram(pixels.reshape(-1, 3))
        if matted[row]:
            foreground += _histogram(pixels[view.gather_alpha([row])[0] >= SOLID])
        if group[row] >= 0:
            totals[group[row]] += pixels
        edges[row] = edge_colour(pixels)
        advance(1)
    faces = [
        (name, len(rows), np.rint(total / len(rows)).astype(np.uint8))
        for (name, rows), total in zip(classes, totals, strict=True)
    ]
    behind = matte_colours(view)
    by_matte = bool(len(view)) and float(np.isfinite(behind[:, 0]).mean()) >= ENOUGH
    return Survey(whole, foreground, faces, behind if by_matte else edges, by_matte)


def ends(classes: list[tuple[str, list[int]]], most: int) -> list[tuple[str, list[int]]]:
    """All classes with their rows, or of more than ``most`` those with the most and those with the fewest rows."""
    if len(classes) <= most:
        return classes
    ranked = sorted(range(len(classes)), key=lambda k: (-len(classes[k][1]), k))
    return [classes[k] for k in (*ranked[: most // 2], *ranked[-(most // 2) :])]


def edge_colour(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour, 0..1 float64 [3], of the edge of a crop uint8 [H, W, 3], see :data:`EDGE`."""
    high, wide = pixels.shape[:2]
    rows, columns = max(1, round(EDGE * high)), max(1, round(EDGE * wide))
    sides = pixels[rows : max(rows + 1, high // 2)]
    parts = (pixels[:rows], sides[:, :columns], sides[:, -columns:])
    edge = np.concatenate([part.reshape(-1, 3) for part in parts])
    return np.asarray(edge.mean(0) / 255, dtype=np.float64)


def matte_colours(view: View) -> NDArray[np.float64]:
    """Mean colour of what the matte of each crop leaves to the background, 0..1 float64 [n, 3], from the sums that are
    kept of every crop; NaN without a matte, and where hardly anything is left."""
    table = view.table
    left = table["count"].to_numpy(np.float64) - table["fg_count"].astype(float).to_numpy(np.float64)
    usable = left >= BACKGROUND * table["count"].to_numpy(np.float64)
    whole, inside = (table[[f"{kind}_{c}" for c in CHANNELS]].astype(float).to_numpy() for kind in ("sum", "fg_sum"))
    colours = (whole - inside) / np.where(usable, left, np.nan)[:, None] / 255
    found: NDArray[np.float64] = np.where(np.isfinite(colours), colours, np.nan)
    return found


def _histogram(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)]).astype(np.int64)
