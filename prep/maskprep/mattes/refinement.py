"""Finer edges for a matte."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError, missing_extra
from maskprep.photos import Pixels

REFINEMENTS = ("none", "guided", "closed-form")

Floats = NDArray[np.float32]


def refine(pixels: Pixels, alpha: Pixels, method: str) -> Pixels:
    """Let a matte follow the edges of its picture.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        alpha: uint8 [H, W], as what is returned.
        method: one of REFINEMENTS.

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
    sigma = np.empty((*alpha.shape, 3, 3), np.float32)
    for i, j in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]:
        sigma[..., i, j] = sigma[..., j, i] = mean(guide[..., i] * guide[..., j]) - average[..., i] * average[..., j]
    sigma += eps * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(sigma, covariance[..., None])[..., 0]
    offset = level - (slope * average).sum(axis=-1)
    return _bytes((mean(slope) * guide).sum(axis=-1) + mean(offset))


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
    return _bytes(matting.estimate_alpha_cf(pixels / 255.0, trimap))


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
