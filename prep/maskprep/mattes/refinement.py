"""Finer edges for a matte, and the person's own colours along them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.errors import UsageError, missing_extra
from maskprep.photos import Pixels

REFINEMENTS = ("none", "guided", "closed-form")
WORKING_SIDE = 512
"""Neighbourhood means are taken on a copy at most this large: they are blurs, and large photos stay quick."""

PURITY = 6
"""How much more a pixel counts for the colour of a layer the more of it that layer has."""

Floats = NDArray[np.float32]


def refine(pixels: Pixels, alpha: Pixels, method: str) -> Pixels:
    """Let a matte follow the edges of its picture.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        alpha: uint8 [H, W].
        method: one of REFINEMENTS.

    Returns:
        uint8 [H, W].

    Raises:
        UsageError: an unknown method.
        UserError: ``closed-form`` without pymatting.
    """
    if method not in REFINEMENTS:
        raise UsageError(f"Unknown refinement '{method}'.", f"Known: {', '.join(REFINEMENTS)}.")
    if method == "none" or not 0 < int((alpha >= 128).sum()) < alpha.size:
        return alpha
    return _guided(pixels, alpha) if method == "guided" else _closed_form(pixels, alpha)


def _guided(pixels: Pixels, alpha: Pixels, eps: float = 1e-4) -> Pixels:
    """Guided filter with a colour guide (He, Sun and Tang, 2013): alpha as a linear function of the colour near by."""
    import cv2

    radius = max(2, round(max(alpha.shape) / 20))
    box = (2 * radius + 1, 2 * radius + 1)

    def mean(values: Any) -> Floats:
        blurred = cv2.blur(np.asarray(values, np.float32), box, borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred, np.float32)

    guide, target = pixels.astype(np.float32) / 255, alpha.astype(np.float32) / 255
    average, level = mean(guide), mean(target)
    covariance = mean(guide * target[..., None]) - average * level[..., None]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    sigma = np.empty((*alpha.shape, 3, 3), np.float32)
    for i, j in pairs:
        sigma[..., i, j] = mean(guide[..., i] * guide[..., j]) - average[..., i] * average[..., j]
        sigma[..., j, i] = sigma[..., i, j]
    sigma += eps * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(sigma, covariance[..., None])[..., 0]
    offset = level - (slope * average).sum(axis=-1)
    result = (mean(slope) * guide).sum(axis=-1) + mean(offset)
    return _bytes(result)


def _closed_form(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Closed-form matting (Levin, Lischinski and Weiss, 2008) of the band between sure person and sure background."""
    import cv2

    matting = pymatting()
    band = max(3, round(max(alpha.shape) / 50)) | 1
    kernel = np.ones((band, band), np.uint8)
    sure: Any = cv2.erode((alpha >= 240).astype(np.uint8), kernel, borderValue=1)
    away: Any = cv2.erode((alpha <= 15).astype(np.uint8), kernel, borderValue=1)
    trimap = np.full(alpha.shape, 0.5)
    trimap[sure > 0], trimap[away > 0] = 1.0, 0.0
    if not (sure.any() and away.any()):
        return alpha
    found = matting.estimate_alpha_cf(pixels / 255.0, trimap)
    return _bytes(found)


def _bytes(values: Any) -> Pixels:
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def pymatting() -> Any:
    """The package pymatting. Its first import on a machine compiles for about a minute.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pymatting as package
    except ImportError as error:
        raise missing_extra("pymatting", "rembg") from error
    return package


def foreground(pixels: Pixels, alpha: Pixels) -> Pixels:
    """The person's own colours, also where they are mixed with the background, so that no halo of it remains.

    Blur fusion (Forte and Pitié, Approximate Fast Foreground Colour Estimation, 2021): the mean colour of the person
    and of the background near by, then corrected so that both together give the pixel seen; once widely, once narrowly.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        alpha: uint8 [H, W].

    Returns:
        uint8 [H, W, 3]; pixels that are wholly the person's stay as they are.
    """
    import cv2

    soft = (alpha > 0) & (alpha < 255)
    if not soft.any() or not (alpha >= 128).any():
        return pixels.copy()
    height, width = alpha.shape
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = pixels if scale == 1 else np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    share = alpha if scale == 1 else np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA))
    colours: Floats = small.astype(np.float32)
    weight: Floats = np.asarray(share[..., None] / 255, np.float32)
    person, ground = colours, colours
    for reach in (0.4, 0.03):
        radius = max(1, round(reach * max(size) / 2))
        person, ground = _fuse(colours, weight, person, ground, (2 * radius + 1, 2 * radius + 1))
    if scale < 1:
        person = np.asarray(cv2.resize(person, (width, height), interpolation=cv2.INTER_LINEAR))
        ground = np.asarray(cv2.resize(ground, (width, height), interpolation=cv2.INTER_LINEAR))
    result = pixels.copy()
    part = alpha[soft].astype(np.float32)[:, None] / 255
    mixed = part * person[soft] + (1 - part) * ground[soft]
    exact = person[soft] + part * (pixels[soft] - mixed)
    result[soft] = np.rint(np.clip(exact, 0, 255)).astype(np.uint8)
    return result


def _fuse(seen: Floats, weight: Floats, person: Floats, ground: Floats, box: tuple[int, int]) -> tuple[Floats, Floats]:
    """One round: weighted means of both layers near by, then the least correction that explains the pixels seen."""
    import cv2

    def near(values: Floats, weights: Floats) -> Floats:
        total = cv2.blur(values * weights, box, borderType=cv2.BORDER_REFLECT)
        norm = cv2.blur(weights, box, borderType=cv2.BORDER_REFLECT)
        return np.asarray(total / np.maximum(norm.reshape(weights.shape), 1e-20), np.float32)

    # the power lets sure pixels speak for the mixed ones beside them
    mean_person, mean_ground = near(person, weight**PURITY), near(ground, (1 - weight) ** PURITY)
    error = seen - weight * mean_person - (1 - weight) * mean_ground
    return np.clip(mean_person + weight * error, 0, 255), np.clip(mean_ground + (1 - weight) * error, 0, 255)
