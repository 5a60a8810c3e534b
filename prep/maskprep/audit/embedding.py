"""Stage ``embed``: who a face looks like to a network, where dlib and its face model are installed.

The model is dlib's ResNet of 2017 (CC0; Labeled Faces in the Wild: 99.4%): 128 numbers for a face of 150x150 pixels.
It is no dependency: ``pip install 'maskprep[faces]'`` brings it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.crops.geometry import warp
from maskprep.photos.decode import PhotoError, Pixels, load
from maskprep.photos.index import pictures
from maskprep.pipeline.job import Job, Wanted, make_rows
from maskprep.store.pool import Compute, Output, Row
from maskprep.store.shards import read_rows
from maskprep.store.tables import fingerprint
from maskprep.weights.fetch import sha256_of

NAME = "embed"
VERSION = 1
ROWS_PER_SHARD = 32
LENGTH = 128
PACKAGE, FILE = "face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"

SIDE, EYES = 150, ((46.0, 47.0), (104.0, 47.0))
"""Size of the face that the network sees, and where the eyes lie in it (x, y; the left one of the picture first)."""

Embed = Callable[[Pixels, NDArray[np.float64]], NDArray[np.float64]]
"""Photo uint8 [h, w, 3] and its subject's keypoints [4, 2] -> vector float64 [128]."""


def model_file() -> Path | None:
    """The face model of an installed package, None where it or dlib is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("dlib") is None:
        return None
    file = Path(found.origin).parent / FILE  # the package itself is not imported: it needs what setuptools dropped
    return file if file.is_file() and sha256_of(file) == SHA256 else None


def open_model(file: Path) -> Embed:
    """Load the model. To be called in the process that uses it."""
    import dlib

    network = dlib.face_recognition_model_v1(os.fspath(file))

    def embed(photo: Pixels, keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
        face = warp(photo, face_transform(keypoints), (SIDE, SIDE), "replicate")
        return np.array(network.compute_face_descriptor(np.ascontiguousarray(face)), np.float64)

    return embed


def face_transform(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2x3 similarity that brings the eyes to EYES.

    Args:
        keypoints: [4, 2]; of the eyes, the first two, the one further left in the picture goes left.
    """
    left, right = sorted((complex(*keypoints[0]), complex(*keypoints[1])), key=lambda p: p.real)
    there, other = complex(*EYES[0]), complex(*EYES[1])
    turn = (other - there) / (right - left) if right != left else 1 + 0j
    moved = there - turn * left
    return np.array([[turn.real, -turn.imag, moved.real], [turn.imag, turn.real, moved.imag]])


@dataclass(frozen=True)
class EmbedStage:
    """Input rows: path and keypoints (8 numbers). Output rows: a vector."""

    file: Path
    max_megapixels: float
    columns: pa.Schema = field(default_factory=lambda: pa.schema([("vector", pa.list_(pa.float32()))]))
    array_shape: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Load the model."""
        import cv2

        cv2.setNumThreads(1)
        embed = open_model(self.file)

        def compute(row: Row) -> Output | None:
            try:
                photo = load(Path(str(row["path"])), self.max_megapixels)
            except PhotoError:
                return None
            return {"vector": embed(photo, np.reshape(row["keypoints"], (4, 2))).tolist()}, None

        yield compute


def make_embeddings(
    job: Job, images: pd.DataFrame, subjects: pd.DataFrame, wanted_images: list[str]
) -> NDArray[np.float64] | None:
    """Bring the stage up to date.

    Args:
        wanted_images: which photos, in which order.

    Returns:
        float64 [n, 128], NaN for a photo whose subject was not seen; None where no model is installed.
    """
    file = model_file()
    if file is None:
        return None
    identity: dict[str, Any] = {"version": VERSION, "settings": {}, "weights": {FILE: SHA256}}
    stage = fingerprint(NAME, identity)
    pairs, rows = [], []
    for image, picture, error, points in zip(
        images["image"], pictures(images), images["error"], subjects["keypoints"], strict=True
    ):
        if not isinstance(error, str) and points is not None and np.ndim(points):
            turned = [float(v) for v in points]
            pairs.append((image, fingerprint(picture, turned, stage)))
            rows.append({"path": os.fspath(job.path(image)), "keypoints": turned})
    wanted = Wanted(NAME, job.cache.rows(NAME), identity, pairs, rows)
    table = read_rows(
        wanted.folder, make_rows(job, wanted, EmbedStage(file, job.config.index.max_megapixels), ROWS_PER_SHARD)
    )
    vectors = (
        {} if table is None else dict(zip(*(table.column(c).to_pylist() for c in ("image", "vector")), strict=True))
    )
    unknown = [np.nan] * LENGTH
    return np.array([vectors.get(image, unknown) for image in wanted_images], np.float64).reshape(-1, LENGTH)
