"""Mean and standard deviation of crops, in float64 from exact integer sums; no pixel is read.

The published baseline of the mask task squares 0..255 values but subtracts the square of a mean that was already
divided by 255, which more than doubles the standard deviation; exact sums leave no room for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.crops.crop import CHANNELS

SPLITS = ("train", "eval")
"""Those of which there is always an entry; others have one where there are such photos."""
ALL = "all"


@dataclass(frozen=True)
class Moments:
    """Statistics of a set of crops.

    Args:
        mean: per channel R, G, B, 0..1.
        std: likewise, of the population.
        images: how many crops.
        pixels: how many pixels.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    images: int
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """The form kept in stats.json."""
        return {"mean": list(self.mean), "std": list(self.std), "images": self.images, "pixels": self.pixels}


def moments(rows: pd.DataFrame, prefix: str = "") -> Moments | None:
    """Statistics of the crops in ``rows``, the columns of a view's shards; None when there are no pixels.

    Sums are added as Python integers, so the result is exact to the last bit of a float64 and independent of order.
    """
    present = rows[rows[f"{prefix}count"].notna()]
    pixels = sum(int(v) for v in present[f"{prefix}count"])
    if pixels == 0:
        return None
    mean, std = [], []
    for channel in CHANNELS:
        total = sum(int(v) for v in present[f"{prefix}sum_{channel}"])
        squares = sum(int(v) for v in present[f"{prefix}sumsq_{channel}"])
        mean.append(total / pixels / 255)
        std.append(math.sqrt(squares * pixels - total * total) / pixels / 255)
    return Moments((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), len(present), pixels)


def by_split(rows: pd.DataFrame, split: pd.Series[Any]) -> dict[str, Any]:
    """One view's entry of stats.json: split -> whole and foreground -> moments (null where there are none).

    Args:
        rows: the live rows of a view.
        split: the split of each, in the same order.
    """
    entry: dict[str, Any] = {}
    others = sorted({*split.dropna()} - {*SPLITS})
    for name in (*SPLITS, *others, ALL):
        chosen = rows if name == ALL else rows[(split == name).to_numpy()]
        whole, foreground = moments(chosen), moments(chosen, "fg_")
        entry[name] = {
            "whole": whole.to_dict() if whole else None,
            "foreground": foreground.to_dict() if foreground else None,
        }
    return entry
