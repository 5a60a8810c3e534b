"""Crop geometry: from a face box to a 2x3 transform, and from a photo to a crop in one warp.

The crop is always sampled from the photo's own pixels. Shrinking averages over the covered area, so a large face does
not alias; the transform is stored, so any point can be mapped from photo to crop and back. What of a crop no photo
shows is counted (:func:`invented_share`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import Box, UsageError
from maskprep.crops.fitting import Region, is_inside, move_inside, share_outside
from maskprep.photos import Pixels

Transform = NDArray[np.float64]
"""float [2, 3]: homogeneous photo pixel -> crop pixel, both with the corner of the first pixel at (0, 0)."""

CROPS = ("face", "centre", "none")
ALIGNS = ("none", "eyes", "similarity")
INSIDE, REFLECT = "inside", "reflect"
BORDERS = (INSIDE, REFLECT, "replicate", "constant", "blur")
MAX_SIZE = 2048
MAX_SAMPLES = 1 << 26

FEWEST_SAMPLES = 2.0
"""A photo may be decoded at a fraction of its size where a crop still shrinks what is left by this factor."""

TEMPLATE = np.array([[-0.174, -0.095], [0.174, -0.095], [0.0, 0.10], [0.0, 0.255]])
"""Right eye, left eye, nose tip and mouth centre of an upright frontal face: offsets from the middle of its box in
units of the box's height. Medians over photos on which all detectors agree."""


@dataclass(frozen=True)
class ViewSettings:
    """One entry of ``views`` in maskprep.yaml: the geometry of a set of crops.

    Args:
        size: height and width of the crop in pixels.
        margin: how much is added on each side of the face, relative to its longer side.
        align: ``none`` keeps the photo upright, ``eyes`` turns it so that the eyes are level, ``similarity`` also
            takes centre and scale from the keypoints instead of the box.
        crop: ``face``; or, as baselines, ``centre`` (the largest centred rectangle of the crop's shape) and ``none``
            (the whole photo, stretched).
        border: ``inside`` moves a crop that reaches beyond the photo into it, then shrinks it
            (:mod:`maskprep.crops.fitting`); the little that may be left takes the colour of the photo's edge. The
            others leave the crop where it is and invent what lies beyond: ``reflect`` a mirror image, ``replicate``
            the edge, ``constant`` black, ``blur`` a blurred mirror image that no face can be seen in.
        zoom: of ``centre``, how many times larger it shows the middle, at least 1: a photo of H x W pixels resized to
            A x B and cropped to the middle h x w is ``size: hxw`` with a zoom of ``min(A / h, B / w)``.

    Raises:
        UsageError: a value out of range.
    """

    size: tuple[int, int] = (224, 224)
    margin: float = 0.35
    align: str = "none"
    crop: str = "face"
    border: str = INSIDE
    zoom: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The settings as they are kept: a zoom only where there is one."""
        return {k: v for k, v in asdict(self).items() if k != "zoom" or v != 1}

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(8 <= side <= MAX_SIZE for side in self.size):
            raise UsageError(f"The size of a crop is two numbers from 8 to {MAX_SIZE}, not {self.size}.")
        if not -0.4 <= self.margin <= 4:
            raise UsageError(f"The margin must be from -0.4 to 4, not {self.margin:g}.")
        if not 1 <= self.zoom <= 20:
            raise UsageError(f"The zoom must be from 1 to 20, not {self.zoom:g}.")
        if self.zoom != 1 and self.crop != "centre":
            raise UsageError("--zoom is only for centred crops.", "Add --crop centre; around a face, give --margin.")
        for name, known in (("align", ALIGNS), ("crop", CROPS), ("border", BORDERS)):
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"Unknown {name} '{value}'.", f"Known: {', '.join(known)}.")


def parse_size(text: str) -> tuple[int, int]:
    """``HxW`` or one number for a square.

    Raises:
        UsageError: anything else.
    """
    try:
        parts = [int(part) for part in text.lower().replace("×", "x").split("x")]
        height, width = parts * 2 if len(parts) == 1 else parts
    except ValueError as error:
        hint = "For example: --size 224x224"
        raise UsageError(f"A size is HxW or one number, not '{text}'.", hint) from error
    return (height, width)


@dataclass(frozen=True)
class Framing:
    """What one crop shows of its photo.

    Args:
        view: geometry.
        photo: height and width of the upright photo.
        box: subject's box in the photo's pixels, None where there is none.
        keypoints: right eye, left eye, nose tip, mouth centre, float [4, 2]; without them nothing is turned.
    """

    view: ViewSettings
    photo: tuple[int, int]
    box: Box | None
    keypoints: NDArray[np.float64] | None = None

    @cached_property
    def face(self) -> tuple[Region, float] | None:
        """The part of the photo that a crop of a face is to show, margin included, and the face's longer side."""
        if self.view.crop != "face" or self.box is None:
            return None
        x0, y0, x1, y1 = self.box
        cx, cy, side, angle = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0, 1.0), 0.0
        if self.keypoints is not None and self.view.align == "eyes":
            dx, dy = self.keypoints[1] - self.keypoints[0]
            angle = math.atan2(dy, dx)
        elif self.keypoints is not None and self.view.align == "similarity":
            cx, cy, side, angle = _fit_template(self.keypoints)
        height, width = self.view.size
        scale = min(height, width) / (side * (1 + 2 * self.view.margin))
        return Region(cx, cy, width / scale, height / scale, angle), side

    @cached_property
    def transform(self) -> Transform | None:
        """Photo -> crop; None when the view needs a face and there is none."""
        height, width = self.view.size
        if self.view.crop == "none":
            return np.array([[width / self.photo[1], 0, 0], [0, height / self.photo[0], 0]], np.float64)
        if self.view.crop == "centre":
            scale = self.view.zoom * max(height / self.photo[0], width / self.photo[1])
            return _similarity(self.photo[1] / 2, self.photo[0] / 2, scale, 0.0, self.view.size)
        if self.face is None or self.box is None:
            return None
        region = self.face[0]
        if self.view.border == INSIDE and not self.shows_photo_only:
            region = move_inside(region, self.photo, self.box)
        return _similarity(region.cx, region.cy, width / region.width, region.angle, self.view.size)

    @property
    def shows_photo_only(self) -> bool:
        """Whether a crop lies within the photo where the margin puts it, so that every border gives the same pixels."""
        return self.face is None or is_inside(self.face[0], self.photo)

    @property
    def margin(self) -> float | None:
        """What is around the face on each side, the mean of both, relative to its longer side; None without a face."""
        if self.face is None or self.transform is None:
            return None
        scale = math.hypot(self.transform[0, 0], self.transform[1, 0])
        return (min(self.view.size) / scale / self.face[1] - 1) / 2

    @property
    def reduction(self) -> int:
        """The fraction of its size at which the photo shows all that the crop can: 1, 2, 4 or 8."""
        if self.transform is None:
            return 1
        shrinks = 1 / float(np.linalg.svd(self.transform[:, :2], compute_uv=False)[0])
        return max(r for r in (1, 2, 4, 8) if r == 1 or shrinks >= FEWEST_SAMPLES * r)


def transform_for(
    view: ViewSettings, photo: tuple[int, int], box: Box | None, keypoints: NDArray[np.float64] | None = None
) -> Transform | None:
    """The transform of one crop, see :class:`Framing`; None when the view needs a face and there is none."""
    return Framing(view, photo, box, keypoints).transform


@dataclass(frozen=True)
class Cut:
    """One crop.

    Args:
        pixels: uint8 [H, W, 3].
        transform: photo -> crop.
        invented: share of the crop that lies outside the photo, 0..1.
        margin: see :attr:`Framing.margin`; less than the view's where the crop had to be shrunk.
    """

    pixels: Pixels
    transform: Transform
    invented: float
    margin: float | None


def cut(
    photo: Pixels,
    view: ViewSettings,
    box: Box | None,
    keypoints: NDArray[np.float64] | None = None,
    shape: tuple[int, int] | None = None,
    reduction: int = 1,
) -> Cut | None:
    """Cut one crop out of a photo; None when the view needs a face and there is none.

    Args:
        photo: uint8 [h, w, 3], upright; the photo, or the photo reduced.
        view, box, keypoints: as in :class:`Framing`.
        shape: height and width of the photo where ``photo`` is reduced; box, keypoints and transform are in its pixels.
        reduction: pixels of the photo, along each side, in one of ``photo``.
    """
    framing = Framing(view, shape or (photo.shape[0], photo.shape[1]), box, keypoints)
    transform = framing.transform
    if transform is None:
        return None
    border = view.border
    if border == INSIDE:  # where nothing is invented, as every view before this border was cut: byte for byte
        border = REFLECT if framing.shows_photo_only else "replicate"
    reduced = transform if reduction == 1 else transform * (reduction, reduction, 1)
    pixels = warp(photo, reduced, view.size, border)
    return Cut(pixels, transform, invented_share(transform, framing.photo, view.size), framing.margin)


def invented_share(transform: Transform, photo: Sequence[float], size: tuple[int, int]) -> float:
    """Share of a crop of a size (height, width) that lies outside its photo (height, width), 0..1. Exact."""
    outline = [(float(x), float(y)) for x, y in _outline(transform, photo)]
    return share_outside(outline, float(size[1]), float(size[0]))


def _outline(transform: Transform, photo: Sequence[float]) -> NDArray[np.float64]:
    """The corners of the photo in pixels of the crop, float [4, 2]."""
    corners = np.array([[0, 0], [photo[1], 0], [photo[1], photo[0]], [0, photo[0]]], np.float64)
    return map_points(transform, corners)


def _similarity(cx: float, cy: float, scale: float, angle: float, size: tuple[int, int]) -> Transform:
    """Turn by ``-angle`` and scale about (cx, cy), which lands in the middle of the crop."""
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([size[1] / 2, size[0] / 2]) - matrix @ np.array([cx, cy])
    return np.column_stack([matrix, shift])


def _fit_template(points: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Centre, longer side and angle of the face box that fits four keypoints best (least squares, Umeyama 1991)."""
    ours, theirs = TEMPLATE - TEMPLATE.mean(axis=0), points - points.mean(axis=0)
    norm = float((ours**2).sum())
    real = float((ours * theirs).sum()) / norm
    imaginary = float((ours[:, 0] * theirs[:, 1] - ours[:, 1] * theirs[:, 0]).sum()) / norm
    side, angle = math.hypot(real, imaginary), math.atan2(imaginary, real)
    rotation = np.array([[real, -imaginary], [imaginary, real]])
    cx, cy = points.mean(axis=0) - rotation @ TEMPLATE.mean(axis=0)
    return float(cx), float(cy), max(side, 1.0), angle


def warp(photo: Pixels, transform: Transform, size: tuple[int, int], border: str = "reflect") -> Pixels:
    """Sample one crop of a size (height, width), uint8 [H, W, 3], from a photo, uint8 [h, w, 3].

    Where the crop is smaller than what it shows, bilinear samples are taken k times as densely and averaged (k the next
    whole number above the reduction), which is an area filter.
    """
    import cv2

    modes = {"replicate": cv2.BORDER_REPLICATE, "constant": cv2.BORDER_CONSTANT}
    mode = modes.get(border, cv2.BORDER_REFLECT_101)
    height, width = size
    scale = float(np.linalg.svd(transform[:, :2], compute_uv=False)[-1])  # along the axis that is shrunk most
    k = max(1, math.ceil(1 / scale - 1e-6))
    k = min(k, max(1, math.isqrt(MAX_SAMPLES // (height * width))))  # 200 MB of samples at most
    dense = transform * k
    # OpenCV puts pixel centres at whole numbers, we put them at halves
    dense = np.column_stack([dense[:, :2], dense @ np.array([0.5, 0.5, 1.0]) - 0.5])
    crop: Any = cv2.warpAffine(
        photo, dense, (width * k, height * k), flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=(0, 0, 0)
    )
    if k > 1:
        crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    if border == "blur":
        crop = _blur_outside(crop, photo.shape[:2], transform)
    return np.ascontiguousarray(crop, dtype=np.uint8)


def _blur_outside(crop: Pixels, photo: tuple[int, ...], transform: Transform) -> Pixels:
    """Blur what lies beyond the photo's border, softly joined to what lies within."""
    import cv2

    height, width = crop.shape[:2]
    inside = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(inside, np.round(_outline(transform, photo)).astype(np.int32), 255)
    if inside.all():
        return crop
    core: Any = cv2.erode(inside, np.ones((5, 5), np.uint8), borderValue=255)
    share: Any = cv2.GaussianBlur(core.astype(np.float32) / 255, (0, 0), 2)
    blurred: Any = cv2.GaussianBlur(crop, (0, 0), max(height, width) / 24)
    weight = share[:, :, None]
    mixed: Pixels = np.rint(crop * weight + blurred * (1 - weight)).astype(np.uint8)
    return mixed


def map_points(transform: Transform, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map float [n, 2] points."""
    return points @ transform[:, :2].T + transform[:, 2]


def invert(transform: Transform) -> Transform:
    """The transform from crop to photo."""
    inverse = np.linalg.inv(transform[:, :2])
    return np.column_stack([inverse, -inverse @ transform[:, 2]])
