"""Augmentation of whole batches where they are, made for GPUs: mirror, scale, turn, shift, brightness, contrast.

Every draw is a function of (seed, epoch, image, how often it came before), as with the other recipes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

RECIPE = "batched"
SCALE, SHIFT, DEGREES, LIGHT = 0.1, 0.06, 10.0, 0.2
"""Largest change of size, of place as a share of the side, of angle, and of brightness and contrast."""
DRAWS = 7
MARK = 2
"""Tells these draws from those of other parts."""


def draw(seed: int, epoch: int, rows: NDArray[np.int64], repeats: NDArray[np.int64]) -> NDArray[np.float32]:
    """Numbers of 0..1 for each image, float32 [n, DRAWS]."""
    keys = zip(rows.tolist(), repeats.tolist(), strict=True)
    return np.stack([np.random.default_rng([seed, epoch, r, k, MARK]).random(DRAWS, dtype=np.float32) for r, k in keys])


def apply(pixels: Tensor, draws: Tensor) -> Tensor:
    """Augmented pixels uint8 [n, 3, H, W] of pixels, by draws float32 [n, DRAWS]; outside is a mirror image."""
    n, _, height, width = pixels.shape
    flip = torch.where(draws[:, 0] < 0.5, -1.0, 1.0)
    around = 2 * draws[:, 1:] - 1
    scale = 1 / (1 + SCALE * around[:, 0])
    angle = around[:, 1] * (DEGREES * math.pi / 180)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([flip * cos, -flip * sin * (height / width), 2 * SHIFT * around[:, 2]], 1),
            torch.stack([sin * (width / height), cos, 2 * SHIFT * around[:, 3]], 1),
        ],
        1,
    )
    grid = nn.functional.affine_grid(theta, [n, 3, height, width], align_corners=False)
    moved = nn.functional.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)
    brightness, contrast = (1 + LIGHT * around[:, k].view(n, 1, 1, 1) for k in (4, 5))
    moved = moved * brightness
    middle = moved.mean((1, 2, 3), keepdim=True)
    lit = middle + (moved - middle) * contrast
    return lit.round().clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def to_dict(seed: int) -> dict[str, object]:
    """The recipe with every value, as kept in the run."""
    return {
        "recipe": RECIPE,
        "seed": seed,
        "flip": 0.5,
        "scale": SCALE,
        "shift": SHIFT,
        "degrees": DEGREES,
        "light": LIGHT,
    }
