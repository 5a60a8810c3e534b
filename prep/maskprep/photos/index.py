"""Stage ``index``: one row per photo file with its hash, size, orientation and whether it can be decoded."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from maskprep.photos import colour
from maskprep.photos.decode import NOT_READ, Photo, examine, heic_available
from maskprep.store.pool import KEYED, Compute, Output, Row
from maskprep.store.tables import schema_of

NAME = "index"
VERSION = 3
ROWS_PER_SHARD = 128

PASSING = ("MemoryError", "Unable to allocate", *map(os.strerror, (errno.EIO, errno.ESTALE)))
"""How the details of failures begin that earlier versions kept although they may pass."""

COLUMNS = schema_of(
    [
        ("content", pa.string()),
        ("bytes", pa.int64()),
        ("format", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("orientation", pa.int64()),
        ("colour_profile", pa.string()),
        ("error", pa.string()),
        ("detail", pa.string()),
        ("phash", pa.string()),
    ]
)


@dataclass(frozen=True)
class IndexStage:
    """Examines files. Input rows: path, broken. Output rows: COLUMNS."""

    max_megapixels: float
    columns: pa.Schema = COLUMNS
    array_shape: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Nothing to load but the HEIC plugin, where it is installed."""
        heic_available()

        def compute(row: Row) -> Output:
            if row["broken"]:
                photo = Photo("", 0, error="unreadable", detail=str(row["broken"]))
            else:
                photo = examine(Path(str(row["path"])), self.max_megapixels)
            return dataclasses.asdict(photo), None

        yield compute


def not_read(failed: Mapping[str, str]) -> pa.Table:
    """Rows for photos that could not be read this time (image -> why), as :func:`maskprep.store.shards.read_rows`
    gives them for the others; they are in no shard, so the next run tries again."""
    photos = {image: Photo("", 0, error=NOT_READ, detail=why) for image, why in failed.items()}
    rows = [{"image": image, "key": "", "row": 0, **dataclasses.asdict(photo)} for image, photo in photos.items()]
    return pa.Table.from_pylist(rows, schema=pa.schema([*KEYED, *COLUMNS]))


def remembered(rows: pa.Table, broken: Collection[str]) -> list[int]:
    """Which rows hold a failure that may pass; versions before this one kept them as ``unreadable``.

    Args:
        rows: of the shards.
        broken: images that the walk through the folder found broken.
    """
    found = []
    columns = (rows.column(name).to_pylist() for name in ("image", "content", "detail"))
    for number, (image, content, detail) in enumerate(zip(*columns, strict=True)):
        if (not content and image not in broken) or str(detail).startswith(PASSING):
            found.append(number)
    return found


def pictures(images: pd.DataFrame) -> list[str]:
    """What tells the pixels of photos apart, for keys: the file's content, and how its colours came to be sRGB if they
    were not."""
    if "colour_profile" not in images:  # of an earlier version
        return list(images["content"])
    pairs = zip(images["content"], images["colour_profile"], strict=True)
    return [c if pd.isna(profile) else f"{c} to sRGB {colour.VERSION}" for c, profile in pairs]


def assemble(rows: pa.Table, described: pd.DataFrame) -> pa.Table:
    """images.parquet: the index rows and, beside them, person, split and labels (both in the same order)."""
    table = rows.drop_columns(["key", "row"])
    for name in described.columns:
        column = described[name]
        values = [None if pd.isna(v) else v for v in column]
        whole, number = (check(column.dtype) for check in (pd.api.types.is_integer_dtype, pd.api.types.is_float_dtype))
        kind = pa.int64() if whole else pa.float64() if number else pa.string()
        table = table.append_column(name, pa.array(values, kind))
    return table
