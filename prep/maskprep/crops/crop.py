"""Stage ``crop``: the pixels of a view, with the sums that make its statistics exact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.crops.geometry import ViewSettings, cut
from maskprep.photos.decode import PhotoError, Pixels, load
from maskprep.store.pool import Compute, Output, Row
from maskprep.store.tables import schema_of

NAME = "crop"
VERSION = 1
SHARD_BYTES = 64 << 20
MAX_ROWS_PER_SHARD = 256

CHANNELS = ("r", "g", "b")
FOREGROUND = (*(f"fg_{kind}_{c}" for kind in ("sum", "sumsq") for c in CHANNELS), "fg_count")
"""Columns for the sums over a crop's foreground."""

COLUMNS = schema_of(
    [
        ("transform", pa.list_(pa.float64(), 6)),
        ("invented", pa.float64()),
        ("margin", pa.float64()),
        *((f"sum_{c}", pa.int64()) for c in CHANNELS),
        *((f"sumsq_{c}", pa.int64()) for c in CHANNELS),
        ("count", pa.int64()),
        *((f"fg_sum_{c}", pa.int64()) for c in CHANNELS),
        *((f"fg_sumsq_{c}", pa.int64()) for c in CHANNELS),
        ("fg_count", pa.int64()),
    ]
)
"""Rows of a view's shards, besides image, key and row. transform, invented, margin: as in
:class:`~maskprep.crops.geometry.Cut`; shards of earlier versions lack the last two. The fg columns are null without a
matte."""


def rows_per_shard(size: tuple[int, int]) -> int:
    """Rows of one shard: at most 64 MiB of pixels, at least 16 crops."""
    return max(16, min(MAX_ROWS_PER_SHARD, SHARD_BYTES // (3 * size[0] * size[1])))


@dataclass(frozen=True)
class CropStage:
    """Cuts crops. Input rows: path, box (x0, y0, x1, y1 or None), keypoints (8 numbers or None)."""

    view: ViewSettings
    max_megapixels: float
    columns: pa.Schema = COLUMNS

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Height, width and the three colours of a crop."""
        return (*self.view.size, 3)

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Nothing to load."""
        import cv2

        cv2.setNumThreads(1)

        def compute(row: Row) -> Output | None:
            try:
                photo = load(Path(str(row["path"])), self.max_megapixels)
            except PhotoError:
                return None
            points = None if row["keypoints"] is None else np.reshape(row["keypoints"], (4, 2))
            made = cut(photo, self.view, row["box"], points)
            if made is None:
                return None
            about = {"transform": made.transform.ravel().tolist(), "invented": made.invented, "margin": made.margin}
            return {**about, **sums(made.pixels)}, made.pixels

        yield compute


def sums(pixels: Pixels, where: Pixels | NDArray[np.bool_] | None = None, prefix: str = "") -> dict[str, Any]:
    """Exact per-channel sums, sums of squares and the count of pixels.

    Args:
        pixels: uint8 [H, W, 3].
        where: bool [H, W], which pixels count; None for all.
        prefix: put before the names (``fg_`` for the foreground).
    """
    flat = pixels.reshape(-1, 3) if where is None else pixels[where.astype(bool)]
    wide = flat.astype(np.uint32)
    total, squares = wide.sum(axis=0, dtype=np.int64), (wide * wide).sum(axis=0, dtype=np.int64)
    record: dict[str, Any] = {f"{prefix}sum_{c}": int(v) for c, v in zip(CHANNELS, total, strict=True)}
    record |= {f"{prefix}sumsq_{c}": int(v) for c, v in zip(CHANNELS, squares, strict=True)}
    return {**record, f"{prefix}count": len(flat)}
