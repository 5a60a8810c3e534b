"""Stage ``crop``: bringing the crops of a view up to date, and what there is to say about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from maskprep.base.files import write_json
from maskprep.crops import crop as cropping
from maskprep.crops.geometry import INSIDE, ViewSettings, invented_share
from maskprep.errors import UsageError
from maskprep.mattes import planes
from maskprep.pipeline.job import (
    INDEX_FILE,
    VIEW_FILE,
    Job,
    Wanted,
    fill,
    identity_changes,
    plain,
    read_identity,
    want_crops,
)
from maskprep.store.cache import Cache
from maskprep.store.shards import drop_damaged, finish, live_rows, read_index, read_rows
from maskprep.store.tables import fingerprint, inputs_of, read_table, write_table

MANY, FEWEST = 0.1, 5
"""What concerns this share of the photos, and at least so many, is said."""

TIGHTER = 0.05
"""A margin that falls short of the one asked for by more than this is tighter."""

MUCH = 0.1
"""From this share on a crop is said to be invented."""

FILLED = 0.5
"""A set of photos of which this share shows faces that fill this share of their photo is of cropped faces."""


def make_crops(job: Job, view: str, matted: bool = False) -> None:
    """Stage ``crop``: the shards of one view, its index of live rows and view.json.

    Args:
        job: from :func:`maskprep.pipeline.job.open_job`.
        view: its name.
        matted: whether the mattes of crops that are made anew are made anew, too.

    Raises:
        UsageError: there is no such view.
    """
    if view not in job.config.views:
        raise UsageError(f"There is no view '{view}'.", f"Known views: {', '.join(job.config.views)}.")
    settings = job.config.views[view]
    images, subjects = read_table(job.cache.images), read_table(job.cache.subjects)
    wanted = want_crops(job, view, images, subjects)
    stage = cropping.CropStage(settings, job.config.index.max_megapixels)
    before = read_identity(wanted.folder / VIEW_FILE)
    job.notes.extend(_renewed(job, view, before, wanted, matted))
    damaged = drop_damaged(wanted.folder, stage.array_shape)
    if damaged and before.get("settings", {}).get("size") in (None, list(settings.size)):
        job.notes.append(f"{damaged} shards of view '{view}' had lost their pixels and were made again.")
    changed = fill(job, wanted, stage, cropping.rows_per_shard(settings.size))
    path = wanted.folder / INDEX_FILE
    live = live_rows(wanted.folder, wanted.pairs)
    inputs = fingerprint("view", live.to_numpy().tolist())
    moved = inputs_of(path) != inputs
    if moved:
        write_table(path, live[["image", "shard", "row"]], inputs=inputs)
    description = {
        "view": view,
        **settings.to_dict(),
        "size": list(settings.size),
        "colour_space": "sRGB",
        "pixel_format": "uint8 RGB, height x width x 3",
        "fingerprint": fingerprint(cropping.NAME, wanted.identity),
        "stage": wanted.identity,
    }
    if changed or before != plain(wanted.identity):
        write_json(wanted.folder / VIEW_FILE, description)
    finish(wanted.folder, wanted.pairs)  # only now: until the new index is there, readers use the old shards
    if moved:
        planes.forget_lost(wanted.folder, live)
    if settings.crop == "face":
        where = f"{job.cache.root} --view {view}"
        job.notes.extend(remarks(settings, geometry(job.cache, view, settings, images), images, subjects, where))


def view_rows(cache: Cache, view: str) -> pd.DataFrame:
    """The live rows of a view with all columns of its shards, sorted by image.

    Raises:
        UserError: there is no such view.
    """
    folder = cache.view(view)
    rows = read_rows(folder, read_table(folder / INDEX_FILE))
    names = ("image", *cropping.COLUMNS.names)
    return pd.DataFrame({name: [] for name in names}) if rows is None else pd.DataFrame(rows.to_pandas())


def geometry(cache: Cache, view: str, settings: ViewSettings, images: pd.DataFrame) -> pd.DataFrame:
    """image, invented and margin of every crop of a view (see :class:`maskprep.crops.geometry.Cut`).

    Shards of earlier versions do not hold the last two: what was invented follows from transform and photo, and
    their crops had the margin that was asked for.

    Args:
        cache: the cache.
        view: its name.
        settings: its geometry.
        images: images.parquet.
    """
    rows = view_rows(cache, view)
    for name in ("invented", "margin"):
        if name not in rows:
            rows[name] = float("nan")
    found = rows[["image", "transform", "invented", "margin"]].merge(images[["image", "width", "height"]], on="image")
    unknown = found["invented"].isna()
    columns = (found.loc[unknown, name] for name in ("transform", "height", "width"))
    found.loc[unknown, "invented"] = [
        invented_share(np.reshape(transform, (2, 3)), photo, settings.size)
        for transform, *photo in zip(*columns, strict=True)
    ]
    if settings.crop == "face":
        found["margin"] = found["margin"].astype(float).fillna(settings.margin)
    return found[["image", "invented", "margin"]]


def remarks(
    settings: ViewSettings, crops: pd.DataFrame, images: pd.DataFrame, subjects: pd.DataFrame, where: str
) -> list[str]:
    """One sentence or two for people where many photos are too tight for the margin, and what to do; else nothing.

    Args:
        settings: of a view of faces.
        crops: from :func:`geometry`.
        images: images.parquet.
        subjects: subjects.parquet.
        where: the arguments of ``maskprep crop`` that name cache and view.
    """
    tight = crops[crops["margin"] < settings.margin - TIGHTER]
    invented = crops[crops["invented"] > MUCH]
    inside, total = settings.border == INSIDE, len(crops)
    concerned = tight if inside else invented
    if len(concerned) < max(FEWEST, MANY * total):
        return []
    if inside:
        middle = float(tight["margin"].median())
        shows = f"have at most {middle:.2f}" if middle > 0 else "end at the face or leave out some of its forehead"
        said = f"{len(tight)} of {total} photos are tighter than the margin {settings.margin:g}: half of these {shows}."
        advice = f"A smaller margin treats all alike: maskprep crop {where} --margin 0.1"
    else:
        middle = float(invented["invented"].median())
        said = (
            f"{len(invented)} of {total} photos are tighter than the margin {settings.margin:g}: "
            f"in half of these at least {middle:.0%} of the crop is invented (border {settings.border})."
        )
        advice = f"To show only what was photographed: maskprep crop {where} --border inside"
    filled = _filled(images, subjects)
    if filled >= FILLED * total:
        said += f" In {filled} photos the face fills most of the photo; they seem to be cropped already."
        ways = "" if settings.margin <= 0 else ", or at the face with --margin 0" + " --border inside" * (not inside)
        advice = f"To take them whole: maskprep crop {where} --crop none{ways}"
    return [f"{said} {advice}"]


def _filled(images: pd.DataFrame, subjects: pd.DataFrame) -> int:
    """How many photos are filled for the most part by the face that was seen in them."""
    found = subjects[~subjects["status"].isin(["rescued"])].merge(images[["image", "width", "height"]], on="image")
    sides = [
        np.clip(found[f"{axis}1"], 0, found[side]) - np.clip(found[f"{axis}0"], 0, found[side])
        for axis, side in (("x", "width"), ("y", "height"))
    ]
    return int((sides[0] * sides[1] > FILLED * found["width"] * found["height"]).sum())


def _renewed(job: Job, view: str, before: dict[str, Any], wanted: Wanted, matted: bool) -> list[str]:
    """What other settings of a view make anew, in a sentence; nothing where they change no crop."""
    changes = identity_changes(before, wanted.identity) if before else []
    have, asked = read_index(wanted.folder), set(wanted.pairs)
    current = {i for i, k in zip(have["image"], have["key"], strict=True) if (i, k) in asked}
    old = have[have["image"].isin({image for image, _ in asked} - current)]
    if not changes or old.empty:
        return []
    matte_rows = planes.committed(wanted.folder).merge(old[["image", "shard", "row"]], on=["image", "shard", "row"])
    crops, mattes = old["image"].nunique(), matte_rows["image"].nunique()
    said = f"View '{view}' has other settings ({'; '.join(changes)}): {crops} crops"
    if mattes and matted:
        return [f"{said} and their {mattes} mattes were made anew."]
    gone = f" The {mattes} mattes of the old crops are gone; make new ones with: maskprep rembg {job.cache.root}"
    return [f"{said} were made anew." + (gone if mattes else "")]
