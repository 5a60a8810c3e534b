"""Stage ``embed``: who a face looks like to a network, where dlib and its face model are installed.

The model is dlib's ResNet of 2017 (CC0; Labeled Faces in the Wild: 99.4%): 128 numbers for a face of 150x150 pixels.
It is no dependency: ``pip install 'maskprep[faces]'`` brings it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.crops import warp
from maskprep.photos import PhotoError, PhotoFile, Pixels, picture
from maskprep.store import Compute, Input, MapStage, Output, Recipe, Tables
from maskprep.weights import sha256_of

VERSION = 1
LENGTH = 128
PACKAGE, FILE = "face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"

SIDE, EYES = 150, ((46.0, 47.0), (104.0, 47.0))
"""Size of the face that the network sees, and where the eyes lie in it (x, y; the left one of the picture first)."""

Network = Callable[[Pixels, NDArray[np.float64]], NDArray[np.float64]]
"""Photo uint8 [h, w, 3] and its subject's keypoints [4, 2] -> vector float64 [128]."""


def model_file() -> Path | None:
    """The face model of an installed package, None where it or dlib is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("dlib") is None:
        return None
    file = Path(found.origin).parent / FILE  # the package itself is not imported: it needs what setuptools dropped
    return file if file.is_file() and sha256_of(file) == SHA256 else None


def open_model(file: Path) -> Network:
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
class Embed(MapStage[tuple[float, ...]]):
    """A vector for every photo whose subject has keypoints (8 numbers, the input of a row).

    Args:
        file: the face model, from :func:`model_file`.
    """

    file: Path
    name: ClassVar[str] = "embed"
    needs: ClassVar[tuple[str, ...]] = ("images", "choose")
    columns: ClassVar[pa.Schema] = pa.schema([("vector", pa.list_(pa.float32()))])
    rows_per_shard: ClassVar[int] = 32

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, weights={FILE: SHA256})

    def inputs(self, tables: Tables) -> list[Input[tuple[float, ...]]]:
        images = tables.table("images")
        columns = [images[c] for c in ("image", "content", "colour_profile", "error")]
        made = []
        for image, content, profile, error, points in zip(*columns, tables.table("choose")["keypoints"], strict=True):
            if not isinstance(error, str) and points is not None and np.ndim(points):
                keypoints = tuple(map(float, points))
                made.append(Input(image, self.key(picture(content, profile), keypoints), keypoints))
        return made

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        import cv2

        cv2.setNumThreads(1)
        embed = open_model(self.file)

        def compute(photo: PhotoFile, keypoints: tuple[float, ...]) -> Output | None:
            try:
                pixels = photo.pixels()
            except PhotoError:
                return None
            return {"vector": embed(pixels, np.reshape(keypoints, (4, 2))).tolist()}, None

        yield compute


def vectors(tables: Tables, images: Sequence[str]) -> NDArray[np.float64] | None:
    """The vectors of some photos, float64 [n, 128]; NaN for a photo whose subject was not seen. None where no model is
    installed."""
    if "embed" not in tables.stages:
        return None
    rows = tables.rows("embed")
    known = {} if rows is None else dict(zip(*(rows.column(c).to_pylist() for c in ("image", "vector")), strict=True))
    unknown = [np.nan] * LENGTH
    return np.array([known.get(image, unknown) for image in images], np.float64).reshape(-1, LENGTH)
