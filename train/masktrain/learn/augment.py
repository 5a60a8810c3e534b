"""What training images go through. Every draw is a function of (seed, epoch, image), never of the order of work."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw_seed(*numbers: int) -> int:
    """A 32-bit seed that depends on every number and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Augment:
    """A recipe that can be applied to any image at any time, in any thread of its own.

    Args:
        recipe: name of a recipe, see :func:`transforms`.
        seed: seed of the run.
    """

    def __init__(self, recipe: str, seed: int) -> None:
        albumentations, cv2 = _import()
        cv2.setNumThreads(1)  # one image is too little to share; torch needs the cores
        self.seed = seed
        self._compose = albumentations.Compose(transforms(recipe))

    def __call__(self, pixels: NDArray[np.uint8], epoch: int, indices: NDArray[np.int64]) -> None:
        """Augment a batch in place: uint8 [n, H, W, 3], with the table row of each image."""
        for i, index in enumerate(indices.tolist()):
            self._compose.set_random_seed(draw_seed(self.seed, epoch, index))
            pixels[i] = self._compose(image=pixels[i])["image"]

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every value, as kept in the run."""
        return dict(self._compose.to_dict())


def transforms(recipe: str) -> list[Any]:
    """The albumentations of a recipe.

    ``light`` keeps what the label hangs on: the nose and the chin stay in the picture (no more than 6 % shift and 10 %
    scale), nothing is erased, and colours change too little to turn one mask or face into another.
    """
    a, cv2 = _import()
    if recipe == "none":
        return []
    if recipe == "light":
        return [
            a.HorizontalFlip(p=0.5),
            a.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.06, 0.06),
                rotate=(-10, 10),
                border_mode=cv2.BORDER_REFLECT_101,
                p=0.8,
            ),
            a.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.7),
            a.OneOf([a.GaussianBlur(blur_limit=(3, 5)), a.GaussNoise(std_range=(0.01, 0.04))], p=0.2),
        ]
    raise ValueError(f"no recipe '{recipe}'")


def _import() -> tuple[Any, Any]:
    """albumentations without its question to the network whether there is a newer one."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    return albumentations, cv2
