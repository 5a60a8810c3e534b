"""Stage ``overlap``: how much of each face the matte of the whole photo takes for the person it is of.

Only photos with several faces are looked at; for the others there is nothing to choose.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.mattes.models import LocalModel
from maskprep.mattes.runtime import open_looks
from maskprep.photos.decode import PhotoError, load
from maskprep.store.pool import Compute, Output, Row

NAME = "overlap"
VERSION = 1
ROWS_PER_SHARD = 32


@dataclass(frozen=True)
class OverlapStage:
    """Input rows: path, and boxes (x0, y0, x1, y1, ... of every detection). Output rows: one number for each."""

    model: LocalModel
    runtime: str
    providers: tuple[str, ...]
    max_megapixels: float
    columns: pa.Schema = field(default_factory=lambda: pa.schema([("overlaps", pa.list_(pa.float64()))]))
    array_shape: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Load the model."""
        import cv2

        cv2.setNumThreads(1)
        with open_looks(self.model, 1, self.runtime, self.providers) as looks:

            def compute(row: Row) -> Output | None:
                try:
                    photo = load(Path(str(row["path"])), self.max_megapixels)
                except PhotoError:
                    return None
                alpha, clear = looks[0](photo)
                boxes = np.reshape(np.asarray(row["boxes"], np.float64), (-1, 4)).tolist()
                return {"overlaps": [overlap(alpha, box) if clear else None for box in boxes]}, None

            yield compute


def overlap(alpha: NDArray[np.uint8], box: Sequence[float]) -> float | None:
    """Mean of a matte (uint8 [h, w]) within a box (pixels), 0..1; None for a box outside the photo."""
    height, width = alpha.shape
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return float(alpha[y0:y1, x0:x1].mean() / 255) if x0 < x1 and y0 < y1 else None
