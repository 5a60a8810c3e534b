"""Stage ``measure``: what audit must know of every photo's pixels, read once and kept under a key.

A second audit reads no pixels: a row is made anew only when the photo or its subject's box changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.crops.geometry import ViewSettings, transform_for, warp
from maskprep.faces.face import Box
from maskprep.photos.decode import PhotoError, Pixels, load
from maskprep.photos.index import pictures
from maskprep.pipeline.job import Job, Wanted, make_rows
from maskprep.store.pool import Compute, Output, Row
from maskprep.store.shards import read_rows
from maskprep.store.tables import fingerprint, schema_of

NAME = "measure"
VERSION = 1
ROWS_PER_SHARD = 256

PATCH = ViewSettings(size=(48, 48), margin=0.1, align="similarity", border="replicate")
"""The face as checks compare it: upright, eyes, nose and mouth at fixed places."""

COLUMNS = schema_of(
    [
        ("light", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("chroma", pa.float64()),
        ("detail", pa.float64()),
        ("fine", pa.float64()),
        ("quality", pa.float64()),
    ]
)
"""light, low, high: median, 5th and 95th percentile of the subject's luma, 0..1. chroma: distance from grey that 95% of
the photo stay below, 0..1. detail, fine: what halving takes away from the face and from the photo (:func:`detail`).
quality: JPEG quality 1..100 told from the quantisation table, null for other formats."""


@dataclass(frozen=True)
class MeasureStage:
    """Measures photos. Input rows: path, box (x0, y0, x1, y1 or None), keypoints (8 numbers or None)."""

    max_megapixels: float
    columns: pa.Schema = COLUMNS
    array_shape: tuple[int, ...] = field(default=(*PATCH.size, 3))

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Nothing to load."""
        import cv2

        cv2.setNumThreads(1)

        def compute(row: Row) -> Output | None:
            path = Path(str(row["path"]))
            try:
                photo = load(path, self.max_megapixels)
            except PhotoError:
                return None
            points = None if row["keypoints"] is None else np.reshape(row["keypoints"], (4, 2))
            return {**measure(photo, row["box"]), "quality": jpeg_quality(path)}, patch_of(photo, row["box"], points)

        yield compute


def want_measures(job: Job, images: pd.DataFrame, subjects: pd.DataFrame) -> Wanted:
    """Every photo that can be decoded, keyed by its content and its subject's box and keypoints."""
    identity: dict[str, Any] = {"version": VERSION, "settings": {}, "weights": {}}
    stage = fingerprint(NAME, identity)
    columns = (subjects[c] for c in ("x0", "y0", "x1", "y1", "keypoints"))
    pairs, rows = [], []
    for image, picture, error, *corners, points in zip(
        images["image"], pictures(images), images["error"], *columns, strict=True
    ):
        if isinstance(error, str):
            continue
        box = None if pd.isna(corners[0]) else tuple(float(v) for v in corners)
        turned = None if box is None or points is None else [float(v) for v in points]
        pairs.append((image, fingerprint(picture, box, turned, stage)))
        rows.append({"path": os.fspath(job.path(image)), "box": box, "keypoints": turned})
    return Wanted(NAME, job.cache.rows(NAME), identity, pairs, rows)


def make_measures(job: Job, images: pd.DataFrame, subjects: pd.DataFrame) -> tuple[pd.DataFrame, Pixels]:
    """Bring the stage up to date.

    Returns:
        One row per photo that could be read: image, and COLUMNS; and the faces' patches, uint8 [n, 48, 48, 3] RGB.
    """
    wanted = want_measures(job, images, subjects)
    live = make_rows(job, wanted, MeasureStage(job.config.index.max_megapixels), ROWS_PER_SHARD)
    patches = np.empty((len(live), *PATCH.size, 3), np.uint8)
    for shard, part in live.groupby("shard"):
        pixels = np.load(wanted.folder / f"{int(str(shard)):05d}.npy", mmap_mode="r")
        patches[part.index.to_numpy()] = pixels[part["row"].to_numpy()]
    rows = read_rows(wanted.folder, live)
    names = ["image", *COLUMNS.names]
    if rows is None:
        return pd.DataFrame({name: [] for name in names}), patches
    return pd.DataFrame(rows.select(names).to_pandas()), patches


# ---------------------------------------------------------------- one photo


def measure(photo: Pixels, box: Box | None) -> dict[str, Any]:
    """The numbers of one photo, all of COLUMNS but quality.

    Args:
        photo: uint8 [h, w, 3].
        box: of the subject in its pixels; the middle of the photo without one.
    """
    import cv2

    grey: Any = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    face = _inside(grey, box)
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


def _inside(grey: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    height, width = grey.shape
    x0, y0, x1, y1 = box or (width * 0.25, height * 0.25, width * 0.75, height * 0.75)
    left, right = (int(np.clip(v, 0, width)) for v in (x0, x1))
    top, bottom = (int(np.clip(v, 0, height)) for v in (y0, y1))
    return grey[top:bottom, left:right] if right - left >= 4 and bottom - top >= 4 else grey


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
        height, width = photo.shape[:2]
        box, keypoints = (width * 0.25, height * 0.25, width * 0.75, height * 0.75), None
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
            tables = getattr(image, "quantization", None)
    except Exception:  # another format, or a header that only the full decoder forgives
        return None
    if not tables:
        return None
    scale = sum(sorted(tables[min(tables)])[:FINEST]) / FINEST_SUM
    return float(np.clip(100 - 50 * scale if scale <= 1 else 50 / scale, 1, 100))


FINEST, FINEST_SUM = 24, 485
"""So many of the smallest entries of table K.1, and their sum."""
