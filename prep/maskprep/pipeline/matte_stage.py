"""Stage ``matte``: bringing the mattes of a view up to date."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pandas as pd

from maskprep.base.files import write_json
from maskprep.mattes import matte as mattes
from maskprep.mattes import models as matte_models
from maskprep.mattes import planes
from maskprep.pipeline.job import Job, Wanted, fill, plain, read_identity, want_crops, want_mattes
from maskprep.store.shards import drop_damaged, live_rows, read_rows, shard_path
from maskprep.store.tables import read_table


def make_mattes(job: Job, view: str) -> None:
    """Stage ``matte``: the alpha planes of one view's crops, mattes.parquet and mattes.json."""
    settings = job.config.matte
    images, subjects = read_table(job.cache.images), read_table(job.cache.subjects)
    crops = want_crops(job, view, images, subjects)
    wanted = want_mattes(job, view, crops, images, subjects)
    assert settings is not None  # want_mattes has said so
    model, size = matte_models.locate(settings.model), job.config.views[view].size
    if damaged := planes.drop_damaged(crops.folder, size):
        job.notes.append(f"{damaged} alpha planes of view '{view}' were damaged and were made again.")
    places = _places(crops, wanted)
    home = planes.current(crops.folder)
    have = set(zip(*(home[c] for c in ("image", "key", "shard", "row")), strict=True))
    missing = [at for at, place in places.items() if place not in have]
    if missing and settings.refine == "closed-form":
        _compile(job)
    transforms = _transforms(crops) if missing else {}
    rows = []
    for at in missing:
        image, _, shard, row = places[at]
        pixels = os.fspath(shard_path(crops.folder, shard).with_suffix(".npy"))
        located = {"pixels": pixels, "row": row, "transform": [float(v) for v in transforms[image]]}
        rows.append({**wanted.rows[at], **located})
    todo = dataclasses.replace(wanted, pairs=[wanted.pairs[at] for at in missing], rows=rows)
    stage = mattes.MatteStage(model, settings, size, job.config.index.max_megapixels)
    drop_damaged(wanted.folder, stage.array_shape)
    fill(job, todo, stage, mattes.ROWS_PER_PIECE)
    keys = dict(crops.pairs)
    home = pd.DataFrame(list(places.values()), columns=["image", "key", "shard", "row"])
    home = home.assign(crop=home["image"].map(keys))
    planes.assemble(crops.folder, wanted.folder, home, size, model.label)
    description = mattes.describe(settings, model)
    if read_identity(crops.folder / planes.DESCRIPTION) != plain(wanted.identity):
        write_json(crops.folder / planes.DESCRIPTION, description)
    planes.forget_pieces(wanted.folder)


def _places(crops: Wanted, wanted: Wanted) -> dict[int, planes.Place]:
    """Position in ``wanted`` -> image, key of its matte, and where its crop lies; less those that have no crop."""
    live = live_rows(crops.folder, crops.pairs)
    at = {image: (int(s), int(r)) for image, s, r in zip(live["image"], live["shard"], live["row"], strict=True)}
    return {i: (image, key, *at[image]) for i, (image, key) in enumerate(wanted.pairs) if image in at}


def _transforms(crops: Wanted) -> dict[str, Any]:
    """Image -> the transform of its crop."""
    rows = read_rows(crops.folder, live_rows(crops.folder, crops.pairs))
    return {} if rows is None else dict(zip(*(rows.column(c).to_pylist() for c in ("image", "transform")), strict=True))


def _compile(job: Job) -> None:
    """Import pymatting once before the workers do: what it compiles is kept on disk for all of them."""
    from maskprep.mattes.refinement import pymatting

    job.progress.start("pymatting (compiles for about a minute the first time)", 1)
    pymatting()
    job.progress.advance(1)


def matte_entry(job: Job) -> dict[str, Any]:
    """The entry of dataset.json about mattes: version, weights and licence; nothing without mattes."""
    if job.config.matte is None:
        return {}
    model = matte_models.find(job.config.matte.model)
    weights = matte_models.known_weights(model)
    return {mattes.NAME: {"version": mattes.VERSION, "weights": weights, "licence": model.licence}}
