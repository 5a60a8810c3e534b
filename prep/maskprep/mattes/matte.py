"""Stage ``matte``: one soft matte per crop."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.base import Box, UsageError, counted
from maskprep.crops import SOLID, Crop, CropRow, Transform, cut, sums, transform_for, warp
from maskprep.mattes import models as matte_models
from maskprep.mattes import planes
from maskprep.mattes.models import LocalModel, MatteModel
from maskprep.mattes.planes import COLUMNS, JUDGEMENT
from maskprep.mattes.refinement import REFINEMENTS, pymatting, refine
from maskprep.mattes.rules import FACE_HALF, FACE_SEEN, Matte, face_mask, finish, photo_mask
from maskprep.mattes.runtime import RUNTIMES, Look, open_looks, short_provider
from maskprep.photos import PhotoError, PhotoFile, Pixels
from maskprep.store import (
    Cache,
    Compute,
    Input,
    MapStage,
    Output,
    Recipe,
    Report,
    Tables,
    drop_damaged,
    fingerprint,
    read_index,
    read_table,
    shard_path,
)

VERSION = 1
WHERE = ("crop", "photo")


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
        for name, known in {"on": WHERE, "refine": REFINEMENTS, "runtime": RUNTIMES}.items():
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"Unknown matte.{name} '{value}'.", f"Known: {', '.join(known)}.")

    def covers(self, view: str) -> bool:
        """Whether a view is to have mattes."""
        return not self.views or view in self.views

    def recipe(self, model: LocalModel) -> Recipe:
        """What a matte depends on."""
        settings = {"model": model.label, "on": self.on, "refine": self.refine, "runtime": self.runtime}
        return Recipe(VERSION, settings | self.hardware((model.then or model).model), model.weights)

    def hardware(self, model: MatteModel) -> dict[str, Any]:
        """The providers where they change the result: not the processor, and not where onnxruntime is not used."""
        used = [name for name in map(short_provider, self.providers) if name != "cpu"]
        return {"providers": used} if used and not model.file.endswith(".tflite") else {}


@dataclass(frozen=True)
class MatteRow:
    """What a matte is made from.

    Args:
        crop: what the crop was cut by.
        box: of the subject, in the photo's pixels; None where it is not known.
        force: whether a face was really seen there.
        shard: path of the crop's pixels and their row; None where the crop is cut anew from the photo.
    """

    crop: CropRow
    box: Box | None
    force: bool
    shard: tuple[str, int] | None


@dataclass(frozen=True)
class MatteStage(MapStage[MatteRow]):
    """The mattes of one view's crops.

    Rows are made in small pieces (stages/matte-<view>/), so that workers share them evenly and little is lost when they
    are stopped. When all are there they are put beside the pixels of the crops (:mod:`maskprep.mattes.planes`) and the
    pieces are deleted.

    Args:
        crop: the stage of the crops.
        settings: the ``matte`` section.
        faces_sought: whether faces were looked for.
    """

    crop: Crop
    settings: MatteSettings
    faces_sought: bool = True
    columns: ClassVar[pa.Schema] = COLUMNS
    rows_per_shard: ClassVar[int] = 16

    @property
    def name(self) -> str:
        return f"matte:{self.crop.view}"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("images", "choose") if self.reads_photos else ("images", "choose", self.crop.name)

    @property
    def reads_photos(self) -> bool:  # type: ignore[override]
        """Mattes of whole photos share the decode with the crops; the others are made from the crops' pixels."""
        return self.settings.on == "photo"

    @property
    def recipe(self) -> Recipe:
        return self.settings.recipe(matte_models.locate(self.settings.model, fetch=False))

    @property
    def array_shape(self) -> tuple[int, ...]:
        return self.crop.settings.size

    def prepare(self) -> None:
        matte_models.locate(self.settings.model)
        if self.settings.refine == "closed-form":
            pymatting()  # what it compiles the first time, for about a minute, is kept on disk for all workers

    def described(self, cache: Cache) -> Path:
        return cache.view(self.crop.view) / planes.DESCRIPTION

    def indexed(self, cache: Cache) -> Path:
        return cache.view(self.crop.view) / planes.MATTES

    def shard_files(self, cache: Cache) -> list[Path]:
        return sorted(cache.view(self.crop.view).glob("alpha-*"))

    def size(self, cache: Cache) -> int:
        return sum(path.stat().st_size for path in self.shard_files(cache))

    def description(self, tables: Tables) -> dict[str, Any]:
        local = matte_models.locate(self.settings.model, fetch=False)
        named = {"model": local.label, "file": local.path.name, "sha256": local.sha256, "licence": local.model.licence}
        return {**dataclasses.asdict(self.settings), **named}

    def inputs(self, tables: Tables) -> list[Input[MatteRow]]:
        """Every crop of the view, keyed by the crop, the face in it, the settings and the model."""
        stage = fingerprint("matte", self.recipe.to_dict())
        subjects = tables.table("choose")
        columns = (subjects[c] for c in ("image", "status", "x0", "y0", "x1", "y1"))
        faces = {image: (status, corners) for image, status, *corners in zip(*columns, strict=True)}
        places = {} if self.reads_photos else self._places(tables)
        made = []
        for source in tables.inputs(self.crop.name):
            if not self.reads_photos and source.image not in places:
                continue
            status, corners = faces[source.image]
            x0, y0, x1, y1 = (float(v) for v in corners)
            box = (x0, y0, x1, y1) if self.faces_sought and not pd.isna(corners).any() else None
            seen = box is not None and status in ("ok", "given", "ambiguous", "decided")  # a rescued box is a guess
            key = fingerprint(source.key, box, seen, stage)
            made.append(Input(source.image, key, MatteRow(source.row, box, seen, places.get(source.image))))
        return made

    def _places(self, tables: Tables) -> dict[str, tuple[str, int]]:
        """Image -> path of the shard with its crop, and the row."""
        live, folder = tables.live(self.crop.name), self.crop.folder(tables.cache)
        columns = (live[c] for c in ("image", "shard", "row"))
        path = {shard: os.fspath(shard_path(folder, shard).with_suffix(".npy")) for shard in set(live["shard"])}
        return {image: (path[shard], int(row)) for image, shard, row in zip(*columns, strict=True)}

    def purge(self, tables: Tables) -> list[str]:
        view = self.crop.view
        drop_damaged(self.folder(tables.cache), self.array_shape)
        damaged = planes.drop_damaged(tables.cache.view(view), self.crop.settings.size)
        return (
            [f"{counted(damaged, 'matte shard')} of view '{view}' had been damaged and were made again."]
            if damaged
            else []
        )

    def committed(self, tables: Tables) -> pd.DataFrame:
        """What lies beside its crop, and what is still in pieces."""
        beside = planes.current(tables.cache.view(self.crop.view))
        if not self.reads_photos or self.crop.indexed(tables.cache).is_file():
            beside = beside.merge(tables.live(self.crop.name)[["image", "shard", "row"]])
        return pd.concat([beside, read_index(self.folder(tables.cache))], ignore_index=True)

    def settle(self, tables: Tables, report: Report) -> None:
        """Put the pieces beside the crops, write mattes.parquet, and forget the pieces."""
        folder, pieces = tables.cache.view(self.crop.view), self.folder(tables.cache)
        before = len(read_table(folder / planes.MATTES, ["image"])) if (folder / planes.MATTES).is_file() else 0
        live = tables.live(self.crop.name).rename(columns={"key": "crop"})
        keys = pd.DataFrame([(i.image, i.key) for i in tables.inputs(self.name)], columns=["image", "key"], dtype="str")
        home = live.merge(keys, on="image")
        label = matte_models.locate(self.settings.model, fetch=False).label
        made = planes.assemble(folder, pieces, home, self.crop.settings.size, label)
        if made < min(before, len(home)):
            report.notes.append(
                f"The mattes of {before - made} old crops were deleted; make new ones with: "
                f"maskprep rembg {tables.cache.root}"
            )
        planes.forget_pieces(pieces)

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        import cv2

        cv2.setNumThreads(1)
        model = matte_models.locate(self.settings.model, fetch=False)
        view = self.crop.settings
        shard: tuple[str, Pixels | None] = ("", None)
        with open_looks(model, 1, self.settings.runtime, self.settings.providers) as looks:

            def compute(photo: PhotoFile, row: MatteRow) -> Output | None:
                nonlocal shard
                whole = None
                transform = transform_for(view, row.crop.photo, row.crop.box, row.crop.points)
                assert transform is not None  # there is a crop
                if row.shard is not None:
                    if shard[0] != row.shard[0]:
                        shard = (row.shard[0], np.load(row.shard[0], mmap_mode="r"))
                    assert shard[1] is not None
                    pixels = np.array(shard[1][row.shard[1]])
                else:
                    crop = row.crop
                    try:
                        whole, reduced = photo.pixels(), photo.pixels(crop.reduction)
                        made = cut(reduced, view, crop.box, crop.points, crop.photo, crop.reduction)
                    except PhotoError:
                        return None
                    assert made is not None
                    pixels = made.pixels
                matte = matte_crop(looks, self.settings, pixels, whole, transform, row.crop.photo, row.box, row.force)
                record = {name: getattr(matte, name) for name, _ in JUDGEMENT}
                crc = zlib.crc32(matte.alpha.tobytes())
                return {**record, **sums(pixels, matte.alpha >= SOLID, "fg_"), "alpha_crc": crc}, matte.alpha

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
        alpha = refine(pixels, alpha, settings.refine) if clear else alpha
        return finish(alpha, clear, face, force=force, inside=inside)

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
