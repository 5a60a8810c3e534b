"""Stage ``overlap``: how much of each face the matte of the whole photo takes for the person it is of.

Only photos with several faces are looked at; for the others there is nothing to choose.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.faces import detections
from maskprep.mattes import models as matte_models
from maskprep.mattes.matte import MatteSettings
from maskprep.mattes.runtime import open_looks
from maskprep.photos import PhotoError, PhotoFile
from maskprep.store import Compute, Input, MapStage, Output, Recipe, Tables

VERSION = 1

Boxes = tuple[tuple[float, float, float, float], ...]
"""The boxes of all detections of a photo."""


@dataclass(frozen=True)
class Overlap(MapStage[Boxes]):
    """For every photo with several faces one number, 0..1 or None, for each of its detections.

    Args:
        settings: the ``matte`` section, whose model is asked.
    """

    settings: MatteSettings
    name: ClassVar[str] = "overlap"
    needs: ClassVar[tuple[str, ...]] = ("detect",)
    columns: ClassVar[pa.Schema] = pa.schema([("overlaps", pa.list_(pa.float64()))])
    rows_per_shard: ClassVar[int] = 32

    @property
    def recipe(self) -> Recipe:
        model = matte_models.find(self.settings.model)
        settings = {"model": model.name, "runtime": self.settings.runtime, **self.settings.hardware(model)}
        return Recipe(VERSION, settings, matte_models.known_weights(model))

    def prepare(self) -> None:
        matte_models.locate(self.settings.model)

    def inputs(self, tables: Tables) -> list[Input[Boxes]]:
        keys = {i.image: i.key for i in tables.inputs("detect")}
        several = (
            (image, faces) for image, faces in detections(tables.rows("detect")) if len({f["group"] for f in faces}) > 1
        )
        return [Input(image, self.key(keys[image]), tuple(tuple(f["box"]) for f in faces)) for image, faces in several]

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        import cv2

        cv2.setNumThreads(1)
        model = matte_models.locate(self.settings.model, fetch=False)
        with open_looks(model, 1, self.settings.runtime, self.settings.providers) as looks:

            def compute(photo: PhotoFile, boxes: Boxes) -> Output | None:
                try:
                    alpha, clear = looks[0](photo.pixels())
                except PhotoError:
                    return None
                return {"overlaps": [matte_within(alpha, box) if clear else None for box in boxes]}, None

            yield compute


def matte_within(alpha: NDArray[np.uint8], box: Sequence[float]) -> float | None:
    """Mean of a matte (uint8 [h, w]) within a box (pixels), 0..1; None for a box outside the photo."""
    height, width = alpha.shape
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return float(alpha[y0:y1, x0:x1].mean() / 255) if x0 < x1 and y0 < y1 else None
