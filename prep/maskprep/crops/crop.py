"""Stage ``crop``: the pixels of a view, with the sums that make its statistics exact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.base import Box, counted
from maskprep.crops.geometry import INSIDE, REFLECT, Framing, ViewSettings, cut, invented_share
from maskprep.photos import SCALED, PhotoError, PhotoFile, Pixels, picture
from maskprep.store import (
    INDEX,
    Cache,
    Compute,
    Input,
    MapStage,
    Output,
    Recipe,
    Tables,
    fingerprint,
    read_table,
    schema_of,
    shards,
)

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
    ]
)
"""Rows of a view's shards, besides image, key and row. transform, invented, margin: as in
:class:`~maskprep.crops.geometry.Cut`; shards of earlier versions lack the last two."""

MANY, FEWEST = 0.1, 5
"""What concerns this share of the photos, and at least so many, is worth a note."""

TIGHTER, MUCH = 0.05, 0.1
"""A margin is tighter that falls short of the one asked for by more than this; a crop is called invented of which more
than this share is."""

FILLED = 0.5
"""Where this share of the photos shows faces that fill this share of their photo, the photos are cropped faces."""


@dataclass(frozen=True)
class CropRow:
    """What a crop is cut by.

    Args:
        photo: height and width of the upright photo.
        box: of the subject, in its pixels; None where the view shows no faces.
        keypoints: 8 numbers, or None.
        reduction: the photo is decoded at this fraction of its size.
    """

    photo: tuple[int, int]
    box: Box | None
    keypoints: tuple[float, ...] | None
    reduction: int = 1

    @property
    def points(self) -> NDArray[np.float64] | None:
        """The keypoints as float [4, 2]."""
        return None if self.keypoints is None else np.reshape(self.keypoints, (4, 2))


@dataclass(frozen=True)
class Crop(MapStage[CropRow]):
    """The crops of one view, named ``view``."""

    view: str
    settings: ViewSettings
    needs: ClassVar[tuple[str, ...]] = ("images", "choose")
    columns: ClassVar[pa.Schema] = COLUMNS

    @property
    def name(self) -> str:
        return f"crop:{self.view}"

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, self.settings.to_dict())

    @property
    def array_shape(self) -> tuple[int, ...]:
        return (*self.settings.size, 3)

    @property
    def rows_per_shard(self) -> int:  # type: ignore[override]
        """At most 64 MiB of pixels, at least 16 crops."""
        height, width = self.settings.size
        return max(16, min(MAX_ROWS_PER_SHARD, SHARD_BYTES // (3 * height * width)))

    def folder(self, cache: Cache) -> Path:
        return cache.view(self.view)

    def described(self, cache: Cache) -> Path:
        return self.folder(cache) / "view.json"

    def description(self, tables: Tables) -> dict[str, Any]:
        return {
            "view": self.view,
            **self.settings.to_dict(),
            "size": list(self.settings.size),
            "colour_space": "sRGB",
            "pixel_format": "uint8 RGB, height x width x 3",
            "fingerprint": fingerprint("crop", self.recipe.to_dict()),
        }

    def inputs(self, tables: Tables) -> list[Input[CropRow]]:
        """Every image that has a subject (or needs none), keyed by its content, box and the view's geometry. A crop
        within its photo is the same under the borders ``inside`` and ``reflect``, and so is its key."""
        settings, recipe = self.settings, self.recipe.to_dict()
        stage = fingerprint("crop", recipe)
        plainly = fingerprint("crop", {**recipe, "settings": {**recipe["settings"], "border": REFLECT}})
        images, subjects = tables.table("images"), tables.table("choose")
        columns = [images[c] for c in ("image", "content", "colour_profile", "format", "width", "height")]
        columns += [subjects[c] for c in ("status", "x0", "y0", "x1", "y1", "keypoints")]
        seen = settings.crop == "face"
        made = []
        for image, content, profile, format, width, height, status, *corners, points in zip(*columns, strict=True):
            if status in ("unreadable", "dropped") or (seen and pd.isna(corners[0])):
                continue
            x0, y0, x1, y1 = map(float, corners)
            turned = tuple(map(float, points)) if seen and settings.align != "none" and points is not None else None
            row = CropRow((int(height), int(width)), (x0, y0, x1, y1) if seen else None, turned)
            framing = Framing(settings, row.photo, row.box, row.points)
            if format in SCALED:
                row = replace(row, reduction=framing.reduction)
            only = settings.border == INSIDE and framing.shows_photo_only
            size = () if row.reduction == 1 else (f"reduced by {row.reduction}",)
            key = fingerprint(picture(content, profile), row.box, row.keypoints, *size, plainly if only else stage)
            made.append(Input(image, key, row))
        return made

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        import cv2

        cv2.setNumThreads(1)

        def compute(photo: PhotoFile, row: CropRow) -> Output | None:
            try:
                pixels = photo.pixels(row.reduction)
            except PhotoError:
                return None
            made = cut(pixels, self.settings, row.box, row.points, row.photo, row.reduction)
            if made is None:
                return None
            about = {"transform": made.transform.ravel().tolist(), "invented": made.invented, "margin": made.margin}
            return {**about, **sums(made.pixels)}, made.pixels

        yield compute

    def purge(self, tables: Tables) -> list[str]:
        """Delete shards without their pixels; say what other settings make anew."""
        folder, before, notes = self.folder(tables.cache), self.recorded_recipe(tables.cache), []
        damaged = shards.drop_damaged(folder, None)
        if before and (changes := self.recipe.changes(before)):
            have = self.committed(tables)
            wanted = {i.image: i.key for i in tables.inputs(self.name)}
            current = {image for image, key in zip(have["image"], have["key"], strict=True) if wanted.get(image) == key}
            if anew := len({*have["image"]} & {*wanted} - current):
                what = "; ".join(changes)
                notes.append(f"View '{self.view}' has other settings ({what}): {counted(anew, 'crop')} made anew.")
        damaged += shards.drop_damaged(folder, self.array_shape)
        if damaged and before.get("settings", {}).get("size") in (None, list(self.settings.size)):
            notes.append(f"{counted(damaged, 'shard')} of view '{self.view}' had lost pixels and were made again.")
        return notes

    def index(self, tables: Tables, live: pd.DataFrame) -> pa.Table:
        """The live rows with two columns that are asked for without the rest of the shards: invented, margin."""
        return pa.Table.from_pandas(live.merge(self._geometry(tables), on="image"), preserve_index=False)

    def _geometry(self, tables: Tables) -> pd.DataFrame:
        """image, invented and margin. Shards of earlier versions lack the last two: what was invented follows from
        transform and photo, and the margin is the one that was asked for."""
        names = ["image", "invented", "margin"]
        table = tables.rows(self.name)
        if table is None:
            return pd.DataFrame({name: [] for name in names}).astype({"image": "str"})
        rows = table.to_pandas().merge(tables.table("images")[["image", "width", "height"]], on="image")
        rows = rows.assign(**{name: float("nan") for name in names if name not in rows})
        unknown = rows["invented"].isna()
        columns = (rows.loc[unknown, name] for name in ("transform", "height", "width"))
        rows.loc[unknown, "invented"] = [
            invented_share(np.reshape(transform, (2, 3)), photo, self.settings.size)
            for transform, *photo in zip(*columns, strict=True)
        ]
        if self.settings.crop == "face":
            rows["margin"] = rows["margin"].astype(float).fillna(self.settings.margin)
        return pd.DataFrame(rows[names])

    def notes(self, tables: Tables) -> list[str]:
        if self.settings.crop != "face":
            return []
        where = f"{tables.cache.root} --view {self.view}"
        crops = read_geometry(tables.cache, self.view)
        return remarks(self.settings, crops, tables.table("images"), tables.table("choose"), where)


def read_geometry(cache: Cache, view: str) -> pd.DataFrame:
    """image, invented and margin of every crop of a view, as in :class:`~maskprep.crops.geometry.Cut`.

    Raises:
        UserError: there is no such view, or it is of an earlier version.
    """
    return read_table(cache.view(view) / INDEX, needs=("image", "invented", "margin"))[["image", "invented", "margin"]]


def remarks(
    settings: ViewSettings, crops: pd.DataFrame, images: pd.DataFrame, subjects: pd.DataFrame, where: str
) -> list[str]:
    """Where many photos are too tight for the margin of a view of faces, says so, and what to do; else nothing.

    Args:
        crops: from :func:`read_geometry`.
        where: the arguments of ``maskprep crop`` that name cache and view.
    """
    tight = crops[crops["margin"] < settings.margin - TIGHTER]
    invented = crops[crops["invented"] > MUCH]
    inside, total = settings.border == INSIDE, len(crops)
    concerned = tight if inside else invented
    if len(concerned) < max(FEWEST, MANY * total):
        return []
    said = f"{len(concerned)} of {total} photos are tighter than the margin {settings.margin:g}: "
    middle = float(concerned["margin" if inside else "invented"].median())
    if inside:
        shows = f"have at most {middle:.2f}" if middle > 0 else "end at the face or leave out some of its forehead"
        said += f"half of these {shows}."
        advice = f"A smaller margin treats all alike: maskprep crop {where} --margin 0.1"
    else:
        said += f"in half of these at least {middle:.0%} of the crop is invented (border {settings.border})."
        advice = f"To show only what was photographed: maskprep crop {where} --border inside"
    filled = _filled(images, subjects)
    if filled >= FILLED * total:
        said += (
            f" In {counted(filled, 'photo')} the face fills most of the photo; such photos seem to be cropped already."
        )
        ways = "" if settings.margin <= 0 else ", or at the face with --margin 0" + " --border inside" * (not inside)
        advice = f"To take them whole: maskprep crop {where} --crop none{ways}"
    return [f"{said} {advice}"]


def _filled(images: pd.DataFrame, subjects: pd.DataFrame) -> int:
    """How many photos are filled for the most part by the face that was seen in them."""
    found = subjects[subjects["status"] != "rescued"].merge(images[["image", "width", "height"]], on="image")
    width, height = (
        np.clip(found[f"{axis}1"], 0, found[side]) - np.clip(found[f"{axis}0"], 0, found[side])
        for axis, side in (("x", "width"), ("y", "height"))
    )
    return int((width * height > FILLED * found["width"] * found["height"]).sum())


def sums(pixels: Pixels, where: Pixels | NDArray[np.bool_] | None = None, prefix: str = "") -> dict[str, Any]:
    """Exact per-channel sums, sums of squares and the count of pixels of uint8 [H, W, 3], of all or of those where bool
    [H, W] holds; ``prefix`` is put before the names (``fg_`` for the foreground)."""
    flat = pixels.reshape(-1, 3) if where is None else pixels[where.astype(bool)]
    wide = flat.astype(np.uint32)
    total, squares = wide.sum(axis=0, dtype=np.int64), (wide * wide).sum(axis=0, dtype=np.int64)
    record: dict[str, Any] = {f"{prefix}sum_{c}": int(v) for c, v in zip(CHANNELS, total, strict=True)}
    record |= {f"{prefix}sumsq_{c}": int(v) for c, v in zip(CHANNELS, squares, strict=True)}
    return {**record, f"{prefix}count": len(flat)}
