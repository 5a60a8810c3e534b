"""The photo files: stage ``index`` (hash, size, whether it can be decoded), and images.parquet, which adds what the
layout of their folder says: person, split, labels."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from maskprep.base import UsageError, counted
from maskprep.labels.columns import cells
from maskprep.photos import MAX_MEGAPIXELS, NOT_READ, PILLOW_LIMIT, File, Photo, PhotoFile, heic_available
from maskprep.store import (
    KEYED,
    Compute,
    Input,
    MapStage,
    Output,
    Recipe,
    Report,
    StageStatus,
    Tables,
    TableStage,
    schema_of,
    shards,
)

VERSION = 3

PASSING = ("MemoryError", "Unable to allocate", *map(os.strerror, (errno.EIO, errno.ESTALE)))
"""How the details of failures begin that earlier versions kept although they may pass."""

COLUMNS = schema_of(
    [
        ("content", pa.string()),
        ("bytes", pa.int64()),
        ("format", pa.string()),
        *((name, pa.int64()) for name in ("width", "height", "orientation")),
        *((name, pa.string()) for name in ("colour_profile", "error", "detail", "phash")),
    ]
)


@dataclass(frozen=True)
class IndexSettings:
    """The ``index`` section of maskprep.yaml.

    Args:
        max_megapixels: a larger photo is an error (too_large): it may be a decompression bomb.

    Raises:
        UsageError: out of range.
    """

    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if not 0 < self.max_megapixels <= PILLOW_LIMIT:
            raise UsageError(f"index.max_megapixels must be above 0 and at most {PILLOW_LIMIT:g}.")


@dataclass(frozen=True)
class Index(MapStage[str]):
    """One row per photo file of a folder. A row's input is why the file cannot be opened, empty when it can."""

    settings: IndexSettings
    files: tuple[File, ...] = ()
    name: ClassVar[str] = "index"
    columns: ClassVar[pa.Schema] = COLUMNS
    rows_per_shard: ClassVar[int] = 128

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, dataclasses.asdict(self.settings) | {"heic": heic_available()})

    def worker(self) -> Index:
        return Index(self.settings)

    def other_inputs(self, tables: Tables) -> Any:
        return [(f.image, f.size, f.mtime_ns, f.broken) for f in self.files]

    def inputs(self, tables: Tables) -> list[Input[str]]:
        return [Input(f.image, self.key(f.image, f.size, f.mtime_ns), f.broken) for f in self.files]

    def purge(self, tables: Tables) -> list[str]:
        """Delete what is damaged, and failures that may pass: earlier versions kept such rows as ``unreadable``."""
        super().purge(tables)
        folder = self.folder(tables.cache)
        if self.marked(tables.cache).is_file():
            return []
        broken = {file.image for file in self.files if file.broken}
        for shard in shards.shard_numbers(folder):
            rows = shards.read_shard(folder, shard).select(["image", "content", "detail"]).to_pylist()
            if any(
                (not row["content"] and row["image"] not in broken) or str(row["detail"]).startswith(PASSING)
                for row in rows
            ):
                shards.shard_path(folder, shard).unlink()
        return []

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        heic_available()

        def compute(photo: PhotoFile, broken: str) -> Output:
            facts = Photo("", 0, error="unreadable", detail=broken) if broken else photo.examine()
            return dataclasses.asdict(facts), None

        yield compute

    def status(self, tables: Tables, upstream: bool) -> StageStatus:
        status = super().status(tables, upstream)
        path = tables.cache.images
        gone = set(tables.table("images")["image"]) - {f.image for f in self.files} if path.is_file() else ()
        why = ", ".join(filter(None, (status.why, f"{counted(len(gone), 'photo')} no longer there" if gone else "")))
        return dataclasses.replace(status, why=why)


@dataclass(frozen=True)
class Images(TableStage):
    """images.parquet: the index rows and, beside them, person, split and labels as found: ``described`` has one row per
    photo in the order of the index. Photos that could not be read this time have a row, too (``not_read``); it is in no
    shard, so the next run tries again.
    """

    described: pd.DataFrame
    name: ClassVar[str] = "images"
    needs: ClassVar[tuple[str, ...]] = ("index",)
    file: ClassVar[str] = "images.parquet"
    counted: ClassVar[bool] = False

    @property
    def recipe(self) -> Recipe:
        return Recipe(1)

    def _columns(self) -> dict[str, pa.Array]:
        def kind(column: pd.Series[Any]) -> pa.DataType:
            if pd.api.types.is_integer_dtype(column.dtype):
                return pa.int64()
            return pa.float64() if pd.api.types.is_float_dtype(column.dtype) else pa.string()

        columns = {name: self.described[name] for name in self.described.columns}
        return {name: pa.array(cells(column), kind(column)) for name, column in columns.items()}

    def _lost(self, tables: Tables) -> list[str]:
        made = set(tables.live("index")["image"])
        if len(made) == len(self.described):
            return []
        return [i.image for i in tables.inputs("index") if i.image not in made]

    def other_inputs(self, tables: Tables) -> Any:
        described = {name: column.to_pylist() for name, column in self._columns().items()}
        return described, self._lost(tables)

    def build(self, tables: Tables, report: Report) -> pa.Table:
        records = []
        for image in self._lost(tables):
            photo = Photo("", 0, error=NOT_READ, detail=report.failed.get(image, "it can no longer be read"))
            records.append({"image": image, "key": "", "row": 0, **dataclasses.asdict(photo)})
        rows = pa.Table.from_pylist(records, schema=pa.schema([*KEYED, *COLUMNS]))
        if (made := tables.rows("index")) is not None:
            rows = pa.concat_tables([made, rows]).sort_by("image")
        table = rows.drop_columns(["key", "row"])
        for name, values in self._columns().items():
            table = table.append_column(name, values)
        return table
