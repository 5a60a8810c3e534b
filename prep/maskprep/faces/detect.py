"""Stage ``detect``: every face of every detector, one row per photo; and the table of faces made from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.base import UsageError
from maskprep.faces.detectors import DETECTORS, Detection, check_names, open_detectors
from maskprep.faces.face import Face, merge
from maskprep.faces.search import find_faces
from maskprep.photos import SCALED, PhotoError, PhotoFile, picture, reduction_of
from maskprep.store import Compute, Input, MapStage, Output, Recipe, Report, Tables, TableStage, schema_of

PICTURE = ("content", "colour_profile", "error", "format", "width", "height")
"""Columns of images.parquet that tell what there is to search."""

CORNERS = ("x0", "y0", "x1", "y1")

VERSION = 4
TABLE_VERSION = 4

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
        *((corner, pa.float64()) for corner in CORNERS),
        ("keypoints", pa.list_(pa.float64())),
        *((name, pa.float64()) for name in ("sharpness", "matte", "evidence")),
        ("confirmed", pa.bool_()),
    ]
)
"""faces.parquet. ``face`` counts the detections of an image, those of one face side by side and its best first;
``group`` is the number of that best one, so detections with one group are one face. ``rung`` is the search pass.
keypoints: x, y, x, y, ... ``evidence`` and ``confirmed`` are those of the face, see :mod:`maskprep.faces.face`.
``matte``: mean of the photo's matte within the box, where there are mattes of whole photos and several faces."""


@dataclass(frozen=True)
class DetectSettings:
    """The ``detect`` section of maskprep.yaml.

    Args:
        detectors: which detectors look at every photo.
        thresholds: lowest score that is kept, per detector; those not named keep their own.
        low: lowest score that is kept on a photo on which no clear face is found.

    Raises:
        UsageError: an unknown detector or a threshold outside 0..1.
    """

    detectors: tuple[str, ...] = tuple(DETECTORS)
    thresholds: dict[str, float] = field(default_factory=dict)
    low: float = 0.15

    def __post_init__(self) -> None:
        check_names(self.detectors)
        if not 0 < self.low < 1:
            raise UsageError(f"detect.low must be from 0 to 1, not {self.low:g}.")
        for name, value in self.thresholds.items():
            check_names((name,))
            if not 0 < value < 1:
                raise UsageError(f"detect.thresholds.{name} must be from 0 to 1, not {value:g}.")

    def threshold(self, name: str) -> float:
        """Lowest score that detector ``name`` keeps."""
        return self.thresholds.get(name, DETECTORS[name].threshold)


@dataclass(frozen=True)
class Detect(MapStage[int]):
    """Every face of every detector, a list of FACE for each photo that can be decoded and has no box of its own (is not
    ``given``). A row's input is the reduction at which the photo is decoded, 1 for its full size; boxes are in its full
    pixels.
    """

    settings: DetectSettings
    given: frozenset[str] = frozenset()
    name: ClassVar[str] = "detect"
    needs: ClassVar[tuple[str, ...]] = ("images",)
    follows: ClassVar[str] = "index"
    columns: ClassVar[pa.Schema] = COLUMNS

    @property
    def thresholds(self) -> dict[str, float]:
        """Detector -> lowest score that counts."""
        return {name: self.settings.threshold(name) for name in self.settings.detectors}

    @property
    def recipe(self) -> Recipe:
        weights = {name: DETECTORS[name].sha256 for name in self.settings.detectors}
        return Recipe(VERSION, self.thresholds | {"low": self.settings.low}, weights)

    def worker(self) -> Detect:
        return Detect(self.settings)

    def may_follow(self, image: str) -> bool:
        return image not in self.given

    def inputs(self, tables: Tables) -> list[Input[int]]:
        images = tables.table("images")
        columns = (images[name] for name in ("image", *PICTURE))
        rows = [(image, dict(zip(PICTURE, facts, strict=True))) for image, *facts in zip(*columns, strict=True)]
        made = [self.follow(image, row) for image, row in rows if image not in self.given]
        return [source for source in made if source is not None]

    def follow(self, image: str, row: dict[str, Any]) -> Input[int] | None:
        if isinstance(row["error"], str):
            return None
        reduction = reduction_of(int(row["width"]), int(row["height"])) if row["format"] in SCALED else 1
        size = () if reduction == 1 else (f"reduced by {reduction}",)
        key = self.key(picture(row["content"], row["colour_profile"]), *size)
        return Input(image, key, reduction)

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        thresholds = self.thresholds
        opened = {name: min(self.settings.low, threshold) for name, threshold in thresholds.items()}
        with open_detectors(list(thresholds), opened) as detectors:

            def compute(photo: PhotoFile, reduction: int) -> Output | None:
                try:
                    pixels = photo.pixels(reduction)
                except PhotoError:  # it could be read when it was indexed: the next run sees what became of it
                    return None
                detections, faces = find_faces(pixels, detectors, thresholds)
                return {"faces": [_record(detections[i], face, reduction) for face in faces for i in face.faces]}, None

            yield compute


def _record(detection: Detection, face: Face, scale: int) -> dict[str, Any]:
    """A FACE; ``scale``: pixels of the photo, along each side, in one of those that were searched."""
    return {
        "detector": detection.detector,
        "rung": detection.search_pass,
        "score": detection.score,
        "sharpness": detection.sharpness,
        "box": [v * scale for v in detection.box],
        "keypoints": (detection.keypoints * scale).ravel().tolist(),
        "group": face.faces[0],
        "evidence": face.evidence,
        "confirmed": face.confirmed,
    }


@dataclass(frozen=True)
class Faces(TableStage):
    """faces.parquet: the detections of all photos; empty where no view shows faces, which are then not looked for."""

    name: ClassVar[str] = "faces"
    needs: ClassVar[tuple[str, ...]] = ("detect", "overlap")
    file: ClassVar[str] = "faces.parquet"
    counted: ClassVar[bool] = False

    @property
    def recipe(self) -> Recipe:
        return Recipe(TABLE_VERSION)

    def build(self, tables: Tables, report: Report) -> pa.Table:
        rows = tables.rows("detect") if "detect" in tables.stages else None
        overlaps = tables.rows("overlap") if "overlap" in tables.stages else None
        mattes: dict[str, list[float | None]] = {}
        if overlaps is not None:
            columns = (overlaps.column(name).to_pylist() for name in ("image", "overlaps"))
            mattes = dict(zip(*columns, strict=True))
        out: list[dict[str, Any]] = []
        for image, faces in detections(rows):
            for number, face in enumerate(faces):
                corners = dict(zip(CORNERS, face.pop("box"), strict=True))
                matte = mattes[image][number] if image in mattes else None
                out.append({"image": image, "face": number, "matte": matte, **corners, **face})
        return pa.Table.from_pylist(out, schema=TABLE)


def detections(rows: pa.Table | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Image and its FACEs, from the rows of the stage ``detect``."""
    if rows is not None:
        yield from zip(rows.column("image").to_pylist(), rows.column("faces").to_pylist(), strict=True)


def faces_by_image(table: pd.DataFrame) -> dict[str, list[Face]]:
    """faces.parquet as faces, in the table's order."""
    found: dict[tuple[str, int], list[dict[Any, Any]]] = {}
    for row in table[[name for name in TABLE.names if name in table]].to_dict("records"):
        found.setdefault((row["image"], row["group"]), []).append(row)
    faces: dict[str, list[Face]] = {}
    for (image, _), rows in found.items():
        own = [
            Detection(
                row["detector"],
                row["score"],
                (row["x0"], row["y0"], row["x1"], row["y1"]),
                np.reshape(row["keypoints"], (-1, 2)),
                row["sharpness"],
                row["matte"],
                row["rung"],
            )
            for row in rows
        ]
        numbers = [int(row["face"]) for row in rows]
        faces.setdefault(image, []).append(merge(own, numbers, rows[0]["evidence"], bool(rows[0]["confirmed"])))
    return faces
