"""Stage ``overlap``: bringing up to date how much of each face the mattes of whole photos hold."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.mattes import models as matte_models
from maskprep.mattes import overlap
from maskprep.mattes.matte import MatteSettings
from maskprep.pipeline.config import Config
from maskprep.pipeline.job import Job, Wanted, make_rows
from maskprep.store.pool import Row
from maskprep.store.shards import Pair, read_rows
from maskprep.store.tables import fingerprint


def overlap_identity(config: Config) -> dict[str, Any]:
    """Version, settings and weights of the stage; empty where mattes do not help to choose."""
    if not config.choose.matte:
        return {}
    settings = config.matte or MatteSettings()
    model = matte_models.find(settings.model)
    return {
        "version": overlap.VERSION,
        "settings": {"model": model.name, "runtime": settings.runtime, **settings.hardware(model)},
        "weights": matte_models.known_weights(model),
    }


def measure_overlaps(job: Job, faces: pa.Table, detected: pd.DataFrame) -> tuple[pa.Table, list[str]]:
    """faces.parquet with its column ``matte`` filled for the photos that show several faces.

    Args:
        faces: the table as detection made it.
        detected: image and key of the rows it was made from; equal keys mean equal pictures and equal faces.

    Returns:
        The table, and the photos that should have been looked at and could not this time.

    Raises:
        UserError: the model cannot be had.
    """
    settings = job.config.matte or MatteSettings()
    wanted = _wanted(job, faces.to_pandas(), detected)
    model, limit = matte_models.locate(settings.model), job.config.index.max_megapixels
    stage = overlap.OverlapStage(model, settings.runtime, settings.providers, limit)
    rows = read_rows(wanted.folder, make_rows(job, wanted, stage, overlap.ROWS_PER_SHARD))
    found = {} if rows is None else dict(zip(*(rows.column(c).to_pylist() for c in ("image", "overlaps")), strict=True))
    values = [
        found[image][face] if image in found else None
        for image, face in zip(faces.column("image").to_pylist(), faces.column("face").to_pylist(), strict=True)
    ]
    filled = faces.set_column(faces.column_names.index("matte"), "matte", pa.array(values, pa.float64()))
    return filled, [image for image, _ in wanted.pairs if image not in found]


def _wanted(job: Job, faces: pd.DataFrame, detected: pd.DataFrame) -> Wanted:
    """Every photo with several faces, keyed by its detections."""
    identity = overlap_identity(job.config)
    made_with = fingerprint(overlap.NAME, identity)
    keys = dict(zip(detected["image"], detected["key"], strict=True))
    pairs: list[Pair] = []
    rows: list[Row] = []
    for image, own in faces.groupby("image", sort=True):
        if own["group"].nunique() > 1:
            boxes = own.sort_values("face")[["x0", "y0", "x1", "y1"]].to_numpy(np.float64).ravel().tolist()
            pairs.append((str(image), fingerprint(keys[image], made_with)))
            rows.append({"path": os.fspath(job.path(str(image))), "boxes": boxes})
    return Wanted(overlap.NAME, job.cache.rows(overlap.NAME), identity, pairs, rows)
