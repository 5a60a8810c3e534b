"""The search for faces on hard photos: one rung after another, until a face is found that can be the subject.

Finding some face never ends the search: a passer-by alone must not hide a masked subject. Only a face that several
detectors agree on, that is large enough and near enough to the middle, does (:func:`settled`). The rung that found a
face is kept with it.

=============  ==========================================================  =======================================
rung           what the detectors see                                      what for
=============  ==========================================================  =======================================
as_is          the photo, at most 640 pixels long                          nearly every photo
padded         the photo with half its size added on every side            faces that fill the frame or leave it
half, double   the photo at half and at twice the size                     near and far faces
tiles          four overlapping quarters at up to twice the size           small faces
low            what the rungs before saw with a lower score                faint, dark, covered faces
turned         the photo turned by 20 and 40 degrees either way            tilted heads
=============  ==========================================================  =======================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.faces.choice import CREDIBLE, Box, Face, group, merge, place
from maskprep.faces.detectors import WORKING_SIDE, Detection, Find, reduce_for_detection
from maskprep.photos.decode import Pixels

RUNGS = ("as_is", "padded", "half", "double", "tiles", "low", "turned")

MIN_SIDE = 0.15
"""A subject's side (square root of its area) relative to the photo's, at least this to end the search."""

MAX_OFFSET = 0.3
"""And its centre at most this far from the middle of the photo, relative to width and height."""

TURNS = (20.0, -20.0, 40.0, -40.0)
"""Degrees."""

GREY = (127, 127, 127)


@dataclass(frozen=True)
class Seen:
    """A face and the rung that found it, in pixels of the upright photo."""

    rung: str
    face: Detection


@dataclass(frozen=True)
class Look:
    """One picture shown to the detectors.

    Args:
        pixels: uint8 [h, w, 3].
        back: float [2, 3], from its pixels to the photo's; a similarity.
    """

    pixels: Pixels
    back: NDArray[np.float64]


def climb(photo: Pixels, find: Find, keep: Callable[[Detection], bool], detectors: int) -> list[Seen]:
    """Every face of a photo, from as many rungs as it takes.

    Args:
        photo: uint8 [h, w, 3], upright.
        find: all detectors, at their lowest thresholds.
        keep: whether a face's score is above the normal threshold of its detector.
        detectors: how many there are.
    """
    base, scale = reduce_for_detection(photo)
    height, width = base.shape[:2]
    seen: list[Seen] = []
    faint: list[Seen] = []
    for rung in RUNGS:
        if rung == "low":
            seen += [Seen(rung, s.face) for s in faint]
        for look in looks(rung, base, photo, scale):
            for face in find(look.pixels):
                mapped = Seen(rung, map_face(face, look.back))
                (seen if rung == "turned" or keep(face) else faint).append(mapped)
        if enough(rung, faces_of([s.face for s in seen], detectors), width, height):
            break
    return [Seen(s.rung, _scaled(s.face, 1 / scale)) for s in seen]


def looks(rung: str, base: Pixels, photo: Pixels, scale: float) -> Iterator[Look]:
    """The pictures of one rung. ``base`` is the photo reduced by ``scale``; all map back to its pixels."""
    import cv2

    height, width = base.shape[:2]
    if rung == "as_is":
        yield Look(base, _similarity(1.0, 0.0, 0.0))
    elif rung == "padded":
        y, x = height // 2, width // 2
        padded: Any = cv2.copyMakeBorder(base, y, y, x, x, cv2.BORDER_CONSTANT, value=GREY)
        small, shrink = reduce_for_detection(padded)
        yield Look(small, _similarity(1 / shrink, -x, -y))
    elif rung == "half":
        small, shrink = reduce_for_detection(base, max(64, max(height, width) // 2))
        yield Look(small, _similarity(1 / shrink, 0.0, 0.0))
    elif rung == "double":
        sharp, shrink = reduce_for_detection(photo, 2 * WORKING_SIDE)
        grow = min(2.0, 2 * WORKING_SIDE / max(sharp.shape[:2])) if shrink == 1.0 else 1.0
        large: Any = cv2.resize(sharp, None, fx=grow, fy=grow, interpolation=cv2.INTER_LINEAR) if grow > 1 else sharp
        yield Look(large, _similarity(width / large.shape[1], 0.0, 0.0))
    elif rung == "tiles":
        yield from _tiles(photo, scale)
    elif rung == "turned":
        for degrees in TURNS:
            yield _turned(base, degrees)


def _tiles(photo: Pixels, scale: float) -> Iterator[Look]:
    """Four quarters of 5/8 of the width and height each, so that a face on a seam is whole in one of them."""
    import cv2

    height, width = photo.shape[:2]
    h, w = math.ceil(height * 0.625), math.ceil(width * 0.625)
    for y in (0, height - h):
        for x in (0, width - w):
            tile, shrink = reduce_for_detection(np.ascontiguousarray(photo[y : y + h, x : x + w]))
            if shrink == 1.0 and max(h, w) < WORKING_SIDE:
                grow = min(2.0, WORKING_SIDE / max(h, w))
                larger: Any = cv2.resize(tile, None, fx=grow, fy=grow, interpolation=cv2.INTER_LINEAR)
                tile, shrink = larger, larger.shape[1] / w
            yield Look(tile, _similarity(scale / shrink, x * scale, y * scale))


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


def _similarity(scale: float, x: float, y: float) -> NDArray[np.float64]:
    return np.array([[scale, 0.0, x], [0.0, scale, y]])


def map_face(face: Detection, back: NDArray[np.float64]) -> Detection:
    """A face in the pixels that ``back`` maps to. A turned box stays upright: its centre is turned, its size kept."""
    scale = math.hypot(back[0, 0], back[1, 0])
    x0, y0, x1, y1 = face.box
    cx, cy = back @ np.array([(x0 + x1) / 2, (y0 + y1) / 2, 1.0])
    w, h = (x1 - x0) * scale / 2, (y1 - y0) * scale / 2
    points = face.keypoints @ back[:, :2].T + back[:, 2]
    box = (float(cx - w), float(cy - h), float(cx + w), float(cy + h))
    return Detection(face.detector, face.score, box, points)


def _scaled(face: Detection, factor: float) -> Detection:
    return face if factor == 1.0 else map_face(face, _similarity(factor, 0.0, 0.0))


def sharpness(photo: Pixels, box: Box) -> float:
    """Detail of the upper half of a face (a mask has none): spread of the Laplacian relative to that of the greys.

    Measured at a width of 64 pixels or less, so that a large face is not thought blurred for its size.

    Args:
        photo: uint8 [h, w, 3].
        box: in its pixels; may reach beyond its border.

    Returns:
        0 (flat or blurred) to about 2; 0 for a box outside the photo.
    """
    import cv2

    height, width = photo.shape[:2]
    x0, x1 = (int(np.clip(v, 0, width)) for v in (box[0], box[2]))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (box[1], (box[1] + box[3]) / 2))
    if x1 - x0 < 8 or y1 - y0 < 4:
        return 0.0
    part: Any = cv2.cvtColor(np.ascontiguousarray(photo[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    if x1 - x0 > 64:
        part = cv2.resize(part, (64, max(4, round(64 * (y1 - y0) / (x1 - x0)))), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(part, cv2.CV_32F).std() / (part.std() + 5))


def faces_of(detections: Sequence[Detection], detectors: int) -> list[Face]:
    """Detections as faces."""
    return [merge([detections[i] for i in members], members, detectors) for members in group(detections)]


def enough(rung: str, faces: Sequence[Face], width: int, height: int) -> bool:
    """Whether the search may end after a rung.

    After any rung when one face is :func:`settled`; after ``tiles`` also when there is some credible face, however
    small or far off: the rungs that follow are for photos on which nobody is seen clearly.
    """
    if rung in ("tiles", "low") and any(face.evidence >= CREDIBLE for face in faces):
        return True
    return any(face.agreement > 0.5 and settled(face, width, height) for face in faces)


def settled(face: Face, width: int, height: int) -> bool:
    """Whether a face is large and central enough to be the subject of a portrait."""
    at = place(face.box, width, height)
    return at.log_size >= math.log(MIN_SIDE) and abs(at.x - 0.5) <= MAX_OFFSET and abs(at.y - 0.5) <= MAX_OFFSET
