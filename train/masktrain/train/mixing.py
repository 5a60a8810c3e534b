"""Two training images in one, with shares of both labels: mixup, cutmix, and halves of two faces.

Every draw is a function of (seed, epoch, image, occurrence in the epoch); partners come from the same epoch's images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masktrain.config.images import AugmentConfig

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
MIXING = 1
"""Tells these draws from those of the augmentation."""


@dataclass(frozen=True)
class Mixer:
    """Mixes images of a batch with others of the epoch.

    Args:
        config: how often what is done.
        labels: joint label of each training image, int64 [n].
        rows: table row of each, int64 [n].
        seed: of the run.
    """

    config: AugmentConfig
    labels: Ints
    rows: Ints
    seed: int

    @property
    def on(self) -> bool:
        """Whether anything is ever mixed."""
        return self.config.mixup + self.config.cutmix + self.config.halves > 0

    def __call__(
        self,
        pixels: Pixels,
        part: Ints,
        repeats: Ints,
        epoch: int,
        order: Ints,
        fetch: Callable[[Ints, Ints], Pixels],
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Mix a batch in place.

        Args:
            pixels: uint8 [n, H, W, 3].
            part, repeats: position of each image, and how often it has come before in the epoch, int64 [n].
            order: positions of the epoch's images, from which partners are drawn.
            fetch: pixels, augmented, of partners by position and by draw, int64 [k, 2].

        Returns:
            The partners' positions [n], and the share of the image's own label [n], 1 where nothing was mixed.
        """
        kinds = ("mixup", "cutmix", "halves")
        limits = np.cumsum([self.config.mixup, self.config.cutmix, self.config.halves])
        partners, shares = part.copy(), np.ones(len(part), dtype=np.float32)
        plans: list[tuple[int, str, np.random.Generator]] = []
        for i, (position, repeat) in enumerate(zip(part.tolist(), repeats.tolist(), strict=True)):
            rng = np.random.default_rng([self.seed, epoch, int(self.rows[position]), repeat, MIXING])
            kind = int(np.searchsorted(limits, rng.random(), side="right"))
            if kind == len(kinds):
                continue
            within = kinds[kind] == "halves" and rng.random() < self.config.within
            same = order[self.labels[order] == self.labels[position]] if within else order
            partners[i] = same[rng.integers(len(same))]
            plans.append((i, kinds[kind], rng))
        if plans:
            where = np.array([i for i, *_ in plans])
            others = fetch(partners[where], np.stack([part[where] + 1, repeats[where] + 1], 1))
            for (i, kind_name, rng), other in zip(plans, others, strict=True):
                shares[i] = MIXES[kind_name](pixels[i], other, rng, self.config.alpha)
        return partners, shares


def mixup(pixels: Pixels, other: Pixels, rng: np.random.Generator, alpha: float) -> float:
    """Blend another image into one, in place (arXiv 1710.09412). Returns the share of the first."""
    share = float(rng.beta(alpha, alpha))
    pixels[:] = np.round(share * pixels.astype(np.float32) + (1 - share) * other.astype(np.float32)).astype(np.uint8)
    return share


def cutmix(pixels: Pixels, other: Pixels, rng: np.random.Generator, alpha: float) -> float:
    """Put a rectangle of another image into one, in place (arXiv 1905.04899). Returns the share that is left."""
    height, width = int(pixels.shape[0]), int(pixels.shape[1])
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    top, left = rng.integers(height), rng.integers(width)
    y0, y1 = (int(np.clip(top + s * side * height / 2, 0, height)) for s in (-1, 1))
    x0, x1 = (int(np.clip(left + s * side * width / 2, 0, width)) for s in (-1, 1))
    pixels[y0:y1, x0:x1] = other[y0:y1, x0:x1]
    return 1 - (y1 - y0) * (x1 - x0) / (height * width)


def halves(pixels: Pixels, other: Pixels, rng: np.random.Generator, alpha: float) -> float:
    """Left half of one face and right half of another, in place; mask and chin stay where they are (S3.13).

    The cut lies between 46 and 54 % of the width, on a random side. Returns the share of the first.
    """
    width = int(pixels.shape[1])
    cut = round(width * float(rng.uniform(0.46, 0.54)))
    if rng.random() < 0.5:
        pixels[:, cut:] = other[:, cut:]
        return cut / width
    pixels[:, :cut] = other[:, :cut]
    return 1 - cut / width


MIXES = {"mixup": mixup, "cutmix": cutmix, "halves": halves}
