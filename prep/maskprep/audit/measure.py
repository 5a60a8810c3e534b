"""Stage ``measure``: what audit must know of every photo's pixels, read once and kept under a key.

A second audit reads no pixels: a row is made anew only when the photo or its subject's box changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.base import Box
from maskprep.crops import ViewSettings, transform_for, warp
from maskprep.photos import PhotoError, PhotoFile, Pixels, picture
from maskprep.store import Compute, Input, MapStage, Output, Recipe, Tables, schema_of

VERSION = 1

PATCH = ViewSettings(size=(48, 48), margin=0.1, align="similarity", border="replicate")
"""The face as checks compare it: upright, eyes, nose and mouth at fixed places."""

COLUMNS = schema_of([(c, pa.float64()) for c in ("light", "low", "high", "chroma", "detail", "fine", "quality")])
"""light, low, high: median, 5th and 95th percentile of the subject's luma, 0..1. chroma: distance from grey that 95% of
the photo stay below, 0..1. detail, fine: what halving takes away from the face and from the photo (:func:`detail`).
quality: JPEG quality 1..100 told from the quantisation table, null for other formats."""


FINEST, FINEST_SUM = 24, 485
"""So many of the smallest entries of table K.1 of ITU-T T.81 (quantisation of luma), and their sum."""


@dataclass(frozen=True)
class SubjectRow:
    """Where the subject of a photo is: its box, and its keypoints (8 numbers); None where they are not known."""

    box: Box | None
    keypoints: tuple[float, ...] | None


@dataclass(frozen=True)
class Measure(MapStage[SubjectRow]):
    """COLUMNS and the face's patch, uint8 [48, 48, 3] RGB, for every photo that can be decoded."""

    name: ClassVar[str] = "measure"
    needs: ClassVar[tuple[str, ...]] = ("images", "choose")
    columns: ClassVar[pa.Schema] = COLUMNS
    array_shape: ClassVar[tuple[int, ...]] = (*PATCH.size, 3)
    rows_per_shard: ClassVar[int] = 256

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION)

    def inputs(self, tables: Tables) -> list[Input[SubjectRow]]:
        images, subjects = tables.table("images"), tables.table("choose")
        columns = [images[c] for c in ("image", "content", "colour_profile", "error")]
        columns += [subjects[c] for c in ("x0", "y0", "x1", "y1", "keypoints")]
        made = []
        for image, content, profile, error, x0, y0, x1, y1, points in zip(*columns, strict=True):
            if not isinstance(error, str):
                box = None if pd.isna(x0) else (float(x0), float(y0), float(x1), float(y1))
                row = SubjectRow(box, None if box is None or points is None else tuple(map(float, points)))
                made.append(Input(image, self.key(picture(content, profile), row.box, row.keypoints), row))
        return made

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        import cv2

        cv2.setNumThreads(1)

        def compute(photo: PhotoFile, row: SubjectRow) -> Output | None:
            try:
                pixels = photo.pixels()
            except PhotoError:
                return None
            points = None if row.keypoints is None else np.reshape(row.keypoints, (4, 2))
            facts = {**measure(pixels, row.box), "quality": jpeg_quality(photo.path)}
            return facts, patch_of(pixels, row.box, points)

        yield compute


# ---------------------------------------------------------------- one photo


def measure(photo: Pixels, box: Box | None) -> dict[str, Any]:
    """The numbers of one photo, all of COLUMNS but quality.

    Args:
        photo: uint8 [h, w, 3].
        box: of the subject in its pixels; the middle of the photo without one.
    """
    import cv2

    grey: Any = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    corners = np.reshape(box or middle(photo), (2, 2))
    (left, top), (right, bottom) = np.clip(corners, 0, grey.shape[::-1]).astype(int)
    face = grey[top:bottom, left:right] if right - left >= 4 and bottom - top >= 4 else grey
    low, light, high = (float(v) / 255 for v in np.percentile(face, (5, 50, 95)))
    step = max(1, photo.shape[0] * photo.shape[1] // 40_000)
    flat = photo.reshape(-1, 3)[::step].astype(np.int16)
    return {
        "light": light,
        "low": low,
        "high": high,
        "chroma": float(np.percentile(flat.max(axis=1) - flat.min(axis=1), 95)) / 255,
        "detail": detail(face, 64),
        "fine": detail(grey, 0),
    }


def middle(photo: Pixels) -> Box:
    """The box of the middle of a photo, which stands for a subject that is not known."""
    height, width = photo.shape[:2]
    return width * 0.25, height * 0.25, width * 0.75, height * 0.75


def detail(grey: NDArray[np.uint8], longest: int) -> float:
    """How much of a picture is lost when it is halved and enlarged again, relative to its contrast.

    About 0 for a blurred picture, or one enlarged from something smaller; about 1 for noise.

    Args:
        grey: uint8 [h, w].
        longest: the picture is first reduced to this many pixels on its longer side; 0 takes its own pixels.
    """
    import cv2

    height, width = grey.shape
    if longest and max(height, width) > longest:
        factor = longest / max(height, width)
        size = (max(4, round(width * factor)), max(4, round(height * factor)))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        height, width = grey.shape
    if min(height, width) < 4:
        return 0.0
    values = grey.astype(np.float32)
    half: Any = cv2.resize(values, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    again: Any = cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC)
    return float(np.sqrt(np.mean((values - again) ** 2)) / (values.std() + 2))


def patch_of(photo: Pixels, box: Box | None, keypoints: NDArray[np.float64] | None) -> Pixels:
    """The face at 48x48, turned upright; the middle of the photo without a box. uint8 [48, 48, 3]."""
    if box is None:
        box, keypoints = middle(photo), None
    transform = transform_for(PATCH, photo.shape[:2], box, keypoints)
    assert transform is not None  # there is a box
    return warp(photo, transform, PATCH.size, PATCH.border)


def jpeg_quality(path: Path) -> float | None:
    """JPEG quality as encoders of the Independent JPEG Group count it, None for another format.

    Told from the finest steps of the luma quantisation table against those of quality 50 (ITU-T T.81, table K.1); the
    coarse ones are cut off at 255 where quality is low.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG", "MPO")) as image:
            tables = image.quantization  # type: ignore[attr-defined]
    except Exception:  # another format, or a header that only the full decoder forgives
        return None
    if not tables:
        return None
    scale = sum(sorted(tables[min(tables)])[:FINEST]) / FINEST_SUM
    return float(np.clip(100 - 50 * scale if scale <= 1 else 50 / scale, 1, 100))
