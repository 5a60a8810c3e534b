"""Laying a subject on another background, at the moment it is read. Pure functions over arrays; nothing is stored.

A matte alone would leave the old background shining through every soft edge (rembg #474), so the person's own colours
are estimated first.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.errors import UsageError
from maskprep.photos.decode import Pixels
from maskprep.pixels.refinement import foreground

BACKGROUNDS = ("original", "mean", "colour", "blur", "random")
"""What may lie behind the subject. ``random`` is an augmentation: another photo's background, one colour, or noise."""

COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}
COLOURS |= {"green": (0, 255, 0), "blue": (0, 0, 255), "red": (255, 0, 0), "magenta": (255, 0, 255)}

Colour = tuple[int, int, int]
Floats = NDArray[np.float32]


def parse_colour(text: str) -> Colour:
    """``#rrggbb``, ``r,g,b`` (0..255) or a name as R, G, B.

    Raises:
        UsageError: anything else.
    """
    if text.lower() in COLOURS:
        return COLOURS[text.lower()]
    if match := re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text):
        return (int(match[1], 16), int(match[2], 16), int(match[3], 16))
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 3 and all(part.isdigit() and int(part) <= 255 for part in parts):
        return (int(parts[0]), int(parts[1]), int(parts[2]))
    raise UsageError(f"'{text}' is no colour.", f"Give #rrggbb, r,g,b or one of: {', '.join(COLOURS)}.")


def over(person: Pixels, alpha: Pixels, ground: Pixels) -> Pixels:
    """A person on a background: person * alpha + ground * (1 - alpha), rounded exactly.

    Args:
        person: the person's own colours, uint8 [H, W, 3].
        alpha: uint8 [H, W].
        ground: uint8 [H, W, 3], or anything that broadcasts to it.
    """
    share = alpha.astype(np.uint32)[..., None]
    total = person * share + ground * (255 - share) + 127
    return np.asarray(total // 255, np.uint8)


def place(pixels: Pixels, alpha: Pixels, ground: Pixels) -> Pixels:
    """A crop with another background and without a halo of its own.

    Args:
        pixels: uint8 [H, W, 3].
        alpha: uint8 [H, W].
        ground: uint8 [H, W, 3], or anything that broadcasts to it.

    Returns:
        uint8 [H, W, 3]; where alpha is 255 the very pixels of the crop.
    """
    return over(foreground(pixels, alpha), alpha, ground)


def cut_out(pixels: Pixels, alpha: Pixels) -> Pixels:
    """uint8 [H, W, 4]: the person's own colours, not multiplied by alpha; black where alpha is 0."""
    colours = np.where(alpha[..., None] > 0, foreground(pixels, alpha), 0)
    return np.dstack([colours, alpha]).astype(np.uint8)


def empty_ground(pixels: Pixels, alpha: Pixels) -> Pixels:
    """A crop's background without its person: the hole is filled with the colours around it.

    Returns:
        uint8 [H, W, 3].
    """
    weight = _away(alpha)
    filled = _near(pixels, weight, max(alpha.shape) / 40)
    return _bytes(pixels * weight[..., None] + filled * (1 - weight[..., None]))


def blurred_ground(pixels: Pixels, alpha: Pixels, strength: float = 0.06) -> Pixels:
    """A crop's background out of focus, without the person's colours bleeding into it.

    Args:
        strength: standard deviation of the blur, relative to the longer side.
    """
    return _bytes(_near(pixels, _away(alpha), strength * max(alpha.shape)))


def noise(size: tuple[int, int], random: np.random.Generator) -> Pixels:
    """Coloured noise: coarse or fine grain about a random colour, uint8 [H, W, 3]."""
    import cv2

    grain = int(random.integers(1, 5))
    coarse = (max(1, size[0] >> grain), max(1, size[1] >> grain))
    spread = random.uniform(15, 70)
    values = random.normal(0, spread, (*coarse, 3)) + random.uniform(30, 225, 3)
    small = np.asarray(np.clip(values, 0, 255), np.uint8)
    return np.asarray(cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def _away(alpha: Pixels) -> Floats:
    """How much a pixel is sure to be background: 0 on the person and close to the edge."""
    import cv2

    reach = max(3, round(max(alpha.shape) / 40)) | 1
    wide: Any = cv2.dilate(alpha, np.ones((reach, reach), np.uint8))
    return np.asarray(np.clip(1 - wide / 64, 0, 1), np.float32)


def _near(pixels: Pixels, weight: Floats, sigma: float) -> Floats:
    """Weighted mean of the pixels near by; where none of them counts, of those further and further away."""
    import cv2

    def means(values: Any, part: float) -> Floats:
        side = 2 * round(part * max(weight.shape)) + 1
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

    values = pixels.astype(np.float32) * weight[..., None]
    total: Floats = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
    norm: Floats = np.asarray(cv2.GaussianBlur(weight, (0, 0), sigma), np.float32)
    for part, trust in ((0.08, 1e-3), (0.25, 1e-5), (1.0, 1e-7)):
        total = total + trust * means(values, part)
        norm = norm + trust * means(weight, part)
    empty = norm[..., None] < 1e-12  # no background anywhere
    return np.asarray(np.where(empty, 127.5, total / np.maximum(norm[..., None], 1e-12)), np.float32)


def _bytes(values: Any) -> Pixels:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)
