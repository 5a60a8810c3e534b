"""Stage ``matte``: one soft matte per crop, and its home beside the pixels.

The stage's rows are made in small pieces (stages/matte-<view>/), so that workers share them evenly and little is lost
when it is stopped. When all are there they are put together as planes that are row-aligned with the pixel shards,
``alpha-NNNNN.npy``, each with its table ``alpha-NNNNN.parquet``, and the pieces are deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.crops.crop import FOREGROUND, sums
from maskprep.crops.geometry import Transform, warp
from maskprep.errors import UsageError
from maskprep.faces.face import Box
from maskprep.mattes import models as matte_models
from maskprep.mattes.models import LocalModel, MatteModel
from maskprep.mattes.refinement import REFINEMENTS, refine
from maskprep.mattes.rules import FACE_HALF, FACE_SEEN, SOLID, Matte, face_mask, finish, photo_mask
from maskprep.mattes.runtime import RUNTIMES, Look, open_looks, short_provider
from maskprep.photos.decode import PhotoError, Pixels, load
from maskprep.store.pool import Compute, Output, Row
from maskprep.store.tables import schema_of

NAME = "matte"
VERSION = 1
ROWS_PER_PIECE = 16
WHERE = ("crop", "photo")

JUDGEMENT = (
    ("status", pa.string()),
    ("coverage", pa.float64()),
    ("face_coverage", pa.float64()),
    ("components", pa.int64()),
    ("border_share", pa.float64()),
)

COLUMNS = schema_of([*JUDGEMENT, *((name, pa.int64()) for name in FOREGROUND)])
"""Rows of the stage, besides image, key and row: what there is to say about a matte, and the sums of the foreground."""

TABLE = schema_of([("image", pa.string()), ("key", pa.string()), ("model", pa.string()), *JUDGEMENT])
"""mattes.parquet of a view. ``key`` is that of the crop, so a matte is never taken for that of another crop."""


@dataclass(frozen=True)
class MatteSettings:
    """The ``matte`` section of maskprep.yaml.

    Args:
        model: name of a model, or path of an ONNX file.
        on: ``crop`` looks at the crop, ``photo`` at the whole photo, whose matte is then cropped.
        refine: none, guided or closed-form.
        runtime: what runs the network, onnxruntime or openvino.
        providers: what onnxruntime runs it on, such as ``cuda``, in order; none named: the processor.
        views: which views get mattes; none named: all. ``rembg`` names those that there are when it is asked.

    Raises:
        UsageError: a value out of range.
    """

    model: str = matte_models.DEFAULT
    on: str = "crop"
    refine: str = "none"
    runtime: str = "onnxruntime"
    providers: tuple[str, ...] = ()
    views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("on", self.on, WHERE),
            ("refine", self.refine, REFINEMENTS),
            ("runtime", self.runtime, RUNTIMES),
        ):
            if value not in known:
                raise UsageError(f"Unknown matte.{name} '{value}'.", f"Known: {', '.join(known)}.")

    def covers(self, view: str) -> bool:
        """Whether a view is to have mattes."""
        return not self.views or view in self.views

    def identity(self, model: LocalModel) -> dict[str, Any]:
        """Version, settings and weights that a matte's key is made from."""
        settings = {"model": model.label, "on": self.on, "refine": self.refine, "runtime": self.runtime}
        settings |= self.hardware((model.then or model).model)
        return {"version": VERSION, "settings": settings, "weights": model.weights}

    def hardware(self, model: MatteModel) -> dict[str, Any]:
        """The providers where they change the result: not the processor, and not where onnxruntime is not used."""
        used = [name for name in map(short_provider, self.providers) if name != "cpu"]
        return {"providers": used} if used and not model.file.endswith(".tflite") else {}


@dataclass(frozen=True)
class MatteStage:
    """Makes mattes.

    Input rows: pixels (the shard's path) and row; photo (path), width and height; transform (6 numbers); box (4 numbers
    in the photo, or None) and force (whether a face was really seen there).
    """

    model: LocalModel
    settings: MatteSettings
    size: tuple[int, int]
    max_megapixels: float
    columns: pa.Schema = COLUMNS

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Height and width of a crop."""
        return self.size

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Load the model; crops are read from the mapped shards."""
        import cv2

        cv2.setNumThreads(1)
        last: dict[str, Any] = {"path": None}
        with open_looks(self.model, 1, self.settings.runtime, self.settings.providers) as looks:

            def compute(row: Row) -> Output | None:
                if last["path"] != row["pixels"]:
                    last.update(path=row["pixels"], shard=np.load(row["pixels"], mmap_mode="r"))
                pixels = np.array(last["shard"][row["row"]])
                transform = np.reshape(np.asarray(row["transform"], np.float64), (2, 3))
                photo = None
                if self.settings.on == "photo":
                    try:
                        photo = load(Path(str(row["photo"])), self.max_megapixels)
                    except PhotoError:
                        return None
                shape, face = (row["height"], row["width"]), (row["box"], row["force"])
                matte = matte_crop(looks, self.settings, pixels, photo, transform, shape, *face)
                said = {name: getattr(matte, name) for name, _ in JUDGEMENT}
                return {**said, **sums(pixels, matte.alpha >= SOLID, "fg_")}, matte.alpha

            yield compute


def matte_crop(
    looks: Sequence[Look],
    settings: MatteSettings,
    pixels: Pixels,
    photo: Pixels | None,
    transform: Transform,
    shape: tuple[int, int],
    at: Box | None,
    force: bool,
) -> Matte:
    """The matte of one crop.

    Args:
        looks: of the opened model.
        settings: what it looks at, and the refinement.
        pixels: the crop, uint8 [H, W, 3].
        photo: uint8 [h, w, 3], needed where the settings look at it.
        transform: photo -> crop.
        shape: height and width of the photo.
        at: the subject's box in the photo's pixels.
        force: whether a face was really seen there.
    """
    size = (pixels.shape[0], pixels.shape[1])
    face = None if at is None else face_mask(at, size, transform)
    inside = photo_mask(transform, shape, size)

    def made(look: Look) -> Matte:
        if settings.on == "photo" and photo is not None:
            whole, clear = look(photo)
            alpha = warp(whole, transform, size, "replicate")
        else:
            alpha, clear = look(pixels)
        return finish(
            refine(pixels, alpha, settings.refine) if clear else alpha, clear, face, force=force, inside=inside
        )

    return best(made(look) for look in looks)


def best(made: Iterable[Matte]) -> Matte:
    """The matte of the look that saw most of the face; where none is known, of the first that found anybody.

    Args:
        made: the matte of every look. None is computed after one that has seen enough.
    """

    def held(matte: Matte) -> float:
        return 0.0 if not matte.found else 1.0 if matte.face_coverage is None else matte.face_coverage

    found: Matte | None = None
    for matte, enough in zip(made, (FACE_SEEN, FACE_HALF, 0.0), strict=False):
        if found is None or held(matte) > held(found):
            found = matte
        if held(found) >= enough:
            break
    assert found is not None  # there is always one look
    return found


def table(rows: pd.DataFrame, model: str) -> pa.Table:
    """mattes.parquet.

    Args:
        rows: image, key (of the crop) and the judgement of every matte, sorted by image.
        model: name of the model.
    """
    return pa.Table.from_pandas(rows.assign(model=model)[TABLE.names], schema=TABLE, preserve_index=False)


def describe(settings: MatteSettings, model: LocalModel) -> dict[str, Any]:
    """mattes.json of a view: the model, its licence and the identity of the stage."""
    known = model.model
    named = {"model": model.label, "file": model.path.name, "sha256": model.sha256, "licence": known.licence}
    return {**dataclasses.asdict(settings), **named, "stage": settings.identity(model)}
