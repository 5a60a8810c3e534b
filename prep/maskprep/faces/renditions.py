"""Renditions of a photo: what the detectors are shown, and the way back to the photo's pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.faces.detectors import WORKING_SIDE, Detection, reduce_for_detection
from maskprep.photos import Pixels

SMALL_SIDE = 320
"""Longer side of the rendition ``small``, pixels."""

CLOSE_SIDES, CLOSE_PIXELS = 3, 96
"""What a close look shows: this many times the face's side, at this size."""

TURNS = (20.0, -20.0, 40.0, -40.0)
"""Degrees."""

GREY = (127, 127, 127)
"""What lies beyond the photo."""


@dataclass(frozen=True)
class Look:
    """One rendition shown to the detectors.

    Args:
        pixels: uint8 [h, w, 3].
        back: float [2, 3], from its pixels to the photo's; a similarity.
    """

    pixels: Pixels
    back: NDArray[np.float64]


def looks(search_pass: str, base: Pixels, photo: Pixels, scale: float) -> Iterator[Look]:
    """The pictures of one search pass. ``base`` is the photo reduced by ``scale``; all map back to its pixels."""
    import cv2

    height, width = base.shape[:2]
    if search_pass == "as_is":
        yield Look(base, similarity(1.0, 0.0, 0.0))
    elif search_pass == "padded":
        y, x = height // 2, width // 2
        padded: Any = cv2.copyMakeBorder(base, y, y, x, x, cv2.BORDER_CONSTANT, value=GREY)
        reduced, shrink = reduce_for_detection(padded)
        yield Look(reduced, similarity(1 / shrink, -x, -y))
    elif search_pass == "small":
        reduced, shrink = reduce_for_detection(base, SMALL_SIDE)
        yield Look(reduced, similarity(1 / shrink, 0.0, 0.0))
    elif search_pass == "double":
        sharp, shrink = reduce_for_detection(photo, 2 * WORKING_SIDE)
        large = _enlarged(sharp, 2 * WORKING_SIDE) if shrink == 1.0 else sharp
        yield Look(large, similarity(width / large.shape[1], 0.0, 0.0))
    elif search_pass == "tiles":  # four quarters of 5/8 of each side, so that a face on a seam is whole in one of them
        height, width = photo.shape[:2]
        h, w = math.ceil(height * 0.625), math.ceil(width * 0.625)
        for y in (0, height - h):
            for x in (0, width - w):
                tile, shrink = reduce_for_detection(np.ascontiguousarray(photo[y : y + h, x : x + w]))
                if shrink == 1.0:
                    tile = _enlarged(tile, WORKING_SIDE)
                    shrink = tile.shape[1] / w
                yield Look(tile, similarity(scale / shrink, x * scale, y * scale))
    elif search_pass == "turned":
        for degrees in TURNS:
            yield _turned(base, degrees)


def _enlarged(pixels: Pixels, side: int) -> Pixels:
    """Up to twice as large, at most ``side`` pixels long."""
    import cv2

    grow = min(2.0, side / max(pixels.shape[:2]))
    if grow <= 1:
        return pixels
    return np.asarray(cv2.resize(pixels, None, fx=grow, fy=grow, interpolation=cv2.INTER_LINEAR), np.uint8)


def close(photo: Pixels, box: Sequence[float], scale: float) -> Look:
    """A face, by its box in the photo, with its surroundings, grey beyond the photo. The rendition maps back to pixels
    of the photo times ``scale``.
    """
    import cv2

    height, width = photo.shape[:2]
    side = max(1, round(CLOSE_SIDES * math.sqrt((box[2] - box[0]) * (box[3] - box[1]))))
    left, top = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
    window = np.full((side, side, 3), GREY, np.uint8)
    if x0 < x1 and y0 < y1:
        window[y0 - top : y1 - top, x0 - left : x1 - left] = photo[y0:y1, x0:x1]
    filter_ = cv2.INTER_AREA if side > CLOSE_PIXELS else cv2.INTER_LINEAR
    pixels: Any = cv2.resize(window, (CLOSE_PIXELS, CLOSE_PIXELS), interpolation=filter_)
    return Look(pixels, similarity(scale * side / CLOSE_PIXELS, left * scale, top * scale))


def _turned(base: Pixels, degrees: float) -> Look:
    import cv2

    height, width = base.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    w, h = (round(abs(width * cos) + abs(height * sin)), round(abs(width * sin) + abs(height * cos)))
    matrix = np.array([[cos, -sin], [sin, cos]])
    forth = np.column_stack([matrix, np.array([w / 2, h / 2]) - matrix @ np.array([width / 2, height / 2])])
    turned: Any = cv2.warpAffine(base, forth, (w, h), flags=cv2.INTER_LINEAR, borderValue=GREY)
    back = np.column_stack([matrix.T, -matrix.T @ forth[:, 2]])
    return Look(turned, back)


def similarity(scale: float, x: float, y: float) -> NDArray[np.float64]:
    return np.array([[scale, 0.0, x], [0.0, scale, y]])


def map_face(face: Detection, back: NDArray[np.float64]) -> Detection:
    """A face in the pixels that ``back`` maps to. A turned box stays upright: its centre is turned, its size kept."""
    scale = math.hypot(back[0, 0], back[1, 0])
    x0, y0, x1, y1 = face.box
    cx, cy = back @ np.array([(x0 + x1) / 2, (y0 + y1) / 2, 1.0])
    w, h = (x1 - x0) * scale / 2, (y1 - y0) * scale / 2
    points = face.keypoints @ back[:, :2].T + back[:, 2]
    return replace(face, box=(float(cx - w), float(cy - h), float(cx + w), float(cy + h)), keypoints=points)
