"""Stage ``detect``: every face of every detector, one row per photo; and the table of faces made from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.faces.detectors import Detection, open_detectors
from maskprep.faces.face import Face, merge
from maskprep.faces.search import search
from maskprep.photos.decode import PhotoError, load
from maskprep.store.pool import Compute, Output, Row
from maskprep.store.tables import schema_of

NAME = "detect"
VERSION = 4
TABLE_VERSION = 4
ROWS_PER_SHARD = 64

FACE = pa.struct(
    [
        ("detector", pa.string()),
        ("rung", pa.string()),
        ("score", pa.float64()),
        ("sharpness", pa.float64()),
        ("box", pa.list_(pa.float64())),
        ("keypoints", pa.list_(pa.float64())),
        ("group", pa.int64()),
        ("evidence", pa.float64()),
        ("confirmed", pa.bool_()),
    ]
)
"""A detection: its own values, and those of the face to which it belongs, see TABLE."""

COLUMNS = pa.schema([("faces", pa.list_(FACE))])

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
        ("evidence", pa.float64()),
        ("confirmed", pa.bool_()),
    ]
)
"""faces.parquet. ``face`` counts the detections of an image, those of one face side by side and its best first;
``group`` is the number of that best one, so detections with one group are one face. keypoints: x, y, x, y, ...
``evidence`` and ``confirmed`` are those of the face, see :mod:`maskprep.faces.choice`.
``matte``: mean of the photo's matte within the box, where there are mattes of whole photos and several faces."""


@dataclass(frozen=True)
class DetectStage:
    """Finds faces. Input rows: path. Output rows: a list of FACE.

    Args:
        thresholds: lowest score that counts, per detector that may look.
        low: lowest score that counts on the rung ``low``, where nothing better is found.
        max_megapixels: photos larger than this are not opened.
    """

    thresholds: dict[str, float]
    low: float
    max_megapixels: float
    columns: pa.Schema = field(default_factory=lambda: COLUMNS)
    array_shape: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Load the detectors."""
        lowest = {name: min(self.low, threshold) for name, threshold in self.thresholds.items()}

        with open_detectors(list(self.thresholds), lowest) as detectors:

            def compute(row: Row) -> Output | None:
                try:
                    pixels = load(Path(str(row["path"])), self.max_megapixels)
                except PhotoError:  # it could be read when it was indexed: the next run sees what became of it
                    return None
                detections, faces = search(pixels, detectors, self.thresholds)
                return {"faces": [_record(detections[i], face) for face in faces for i in face.faces]}, None

            yield compute


def _record(detection: Detection, face: Face) -> dict[str, Any]:
    return {
        "detector": detection.detector,
        "rung": detection.rung,
        "score": detection.score,
        "sharpness": detection.sharpness,
        "box": list(detection.box),
        "keypoints": detection.keypoints.ravel().tolist(),
        "group": face.faces[0],
        "evidence": face.evidence,
        "confirmed": face.confirmed,
    }


def assemble(rows: pa.Table) -> pa.Table:
    """faces.parquet from the stage's rows."""
    out: list[dict[str, Any]] = []
    for image, faces in zip(rows.column("image").to_pylist(), rows.column("faces").to_pylist(), strict=True):
        for number, face in enumerate(faces):
            x0, y0, x1, y1 = face.pop("box")
            out.append({"image": image, "face": number, "x0": x0, "y0": y0, "x1": x1, "y1": y1, "matte": None, **face})
    return pa.Table.from_pylist(out, schema=TABLE)


def faces_by_image(table: pd.DataFrame) -> dict[str, list[Face]]:
    """faces.parquet as faces, in the table's order."""
    groups: dict[tuple[str, int], list[dict[Any, Any]]] = {}
    for row in table[[name for name in TABLE.names if name in table]].to_dict("records"):
        groups.setdefault((row["image"], row["group"]), []).append(row)
    faces: dict[str, list[Face]] = {}
    for (image, _), rows in groups.items():
        own = [_detection(row) for row in rows]
        first = rows[0]
        numbers = [int(row["face"]) for row in rows]
        faces.setdefault(image, []).append(merge(own, numbers, first["evidence"], bool(first["confirmed"])))
    return faces


def _detection(row: dict[Any, Any]) -> Detection:
    box = (row["x0"], row["y0"], row["x1"], row["y1"])
    points = np.reshape(row["keypoints"], (-1, 2))
    return Detection(row["detector"], row["score"], box, points, row["sharpness"], row["matte"], row["rung"])
