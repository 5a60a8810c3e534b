"""Stage ``detect``: every face of every detector, one row per photo; and the table of faces made from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.faces.choice import group
from maskprep.faces.detectors import Detection, open_detectors
from maskprep.faces.ladder import Seen, climb, sharpness
from maskprep.photos.decode import PhotoError, load
from maskprep.store.engine import Compute, Output, Row
from maskprep.store.tables import schema_of

NAME = "detect"
VERSION = 3
TABLE_VERSION = 3
ROWS_PER_SHARD = 64

FACE = pa.struct(
    [
        ("detector", pa.string()),
        ("rung", pa.string()),
        ("score", pa.float64()),
        ("sharpness", pa.float64()),
        ("box", pa.list_(pa.float64())),
        ("keypoints", pa.list_(pa.float64())),
    ]
)

TABLE = schema_of(
    [
        ("image", pa.string()),
        ("face", pa.int64()),
        ("group", pa.int64()),
        ("detector", pa.string()),
        ("rung", pa.string()),
        ("score", pa.float64()),
        ("x0", pa.float64()),
        ("y0", pa.float64()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("keypoints", pa.list_(pa.float64())),
        ("sharpness", pa.float64()),
        ("matte", pa.float64()),
    ]
)
"""faces.parquet. ``face`` counts the detections of an image, those of one face side by side and its best first;
``group`` is the number of that best one, so detections with one group are one face. keypoints: x, y, x, y, ...
``matte``: mean of the photo's matte within the box, where there are mattes of whole photos and several faces."""


@dataclass(frozen=True)
class DetectStage:
    """Finds faces. Input rows: path. Output rows: a list of FACE.

    Args:
        thresholds: lowest score that counts, per detector that looks.
        low: lowest score that counts on the rung ``low``, where nothing better is found.
        max_megapixels: photos larger than this are not opened.
    """

    thresholds: dict[str, float]
    low: float
    max_megapixels: float
    columns: pa.Schema = field(default_factory=lambda: pa.schema([("faces", pa.list_(FACE))]))
    array_shape: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Load the detectors."""
        lowest = {name: min(self.low, threshold) for name, threshold in self.thresholds.items()}

        def keep(face: Detection) -> bool:
            return face.score >= self.thresholds[face.detector]

        with open_detectors(list(self.thresholds), lowest) as find:

            def compute(row: Row) -> Output | None:
                try:
                    pixels = load(Path(str(row["path"])), self.max_megapixels)
                except PhotoError:  # it could be read when it was indexed: the next run sees what became of it
                    return None
                seen = climb(pixels, find, keep, len(self.thresholds))
                return {"faces": [_record(s, sharpness(pixels, s.face.box)) for s in seen]}, None

            yield compute


def _record(seen: Seen, detail: float) -> dict[str, Any]:
    face = seen.face
    return {
        "detector": face.detector,
        "rung": seen.rung,
        "score": face.score,
        "sharpness": detail,
        "box": list(face.box),
        "keypoints": face.keypoints.ravel().tolist(),
    }


def assemble(rows: pa.Table) -> pa.Table:
    """faces.parquet from the stage's rows."""
    out: list[dict[str, Any]] = []
    for image, faces in zip(rows.column("image").to_pylist(), rows.column("faces").to_pylist(), strict=True):
        detections = [_detection(face) for face in faces]
        number = 0
        for members in group(detections):
            first = number
            for i in members:
                x0, y0, x1, y1 = detections[i].box
                place = {"image": image, "face": number, "group": first, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
                keep = ("detector", "rung", "score", "keypoints", "sharpness")
                out.append({**place, **{name: faces[i][name] for name in keep}, "matte": None})
                number += 1
    return pa.Table.from_pylist(out, schema=TABLE)


def _detection(face: dict[str, Any]) -> Detection:
    x0, y0, x1, y1 = face["box"]
    points = np.reshape(face["keypoints"], (-1, 2))
    return Detection(face["detector"], face["score"], (x0, y0, x1, y1), points, face["sharpness"])


def detections_by_image(faces: pd.DataFrame) -> dict[str, list[list[tuple[int, Detection]]]]:
    """faces.parquet as detections: image -> faces -> (number, detection), in the table's order."""
    result: dict[str, list[list[tuple[int, Detection]]]] = {}
    columns: Sequence[str] = (
        "image",
        "face",
        "group",
        "detector",
        "score",
        "x0",
        "y0",
        "x1",
        "y1",
        "keypoints",
        "sharpness",
        "matte",
    )
    for image, face, first, detector, score, x0, y0, x1, y1, points, detail, matte in zip(
        *(faces[c] for c in columns), strict=True
    ):
        groups = result.setdefault(image, [])
        if face == first:
            groups.append([])
        seen = Detection(detector, score, (x0, y0, x1, y1), np.reshape(points, (-1, 2)), detail, matte)
        groups[-1].append((int(face), seen))
    return result
