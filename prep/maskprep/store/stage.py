"""Stages: what a cache is made of. Each declares its recipe and its inputs; what is stale follows from these.

A :class:`TableStage` makes one table from other tables. A :class:`MapStage` makes a row for every photo (and pixels,
where it has any) and keeps the rows in shards of its own folder. A row is found under its key, a hash of all it depends
on: the photo's content, and the recipe of the stage (its version, its settings, the sha256 of its weights). Keys are
declared, never made from pickled code. :mod:`maskprep.store.filling` brings stages up to date.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.base import Progress, Silent, UserError, read_once, write_json
from maskprep.store import shards
from maskprep.store.cache import INDEX, VIEW, Cache
from maskprep.store.tables import fingerprint, inputs_of, read_table, values_mark, values_of, write_table

DESCRIPTION = "stage.json"
"""In the folder of a stage: what its rows were made with."""

KEYED = pa.schema([("image", pa.string()), ("key", pa.string()), ("row", pa.int64())])
"""The columns that every row of a shard has before those of its stage."""

R = TypeVar("R")
Output = tuple[dict[str, Any], NDArray[np.uint8] | None]
"""The columns of a row, and its pixels where the stage has some."""

Compute = Callable[[Any, Any], Output | None]
"""(photo, row) -> output; None for a row that could not be made this time."""


@dataclass(frozen=True)
class Recipe:
    """What decides what a stage makes, besides its inputs.

    Args:
        version: raised when the same settings give other results.
        settings: by name.
        weights: label -> sha256 of a file of weights, None where it is not known yet.
    """

    version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The form kept in stage.json and dataset.json."""
        return {"version": self.version, "settings": dict(self.settings), "weights": dict(self.weights)}

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """In words, how another recipe (in the form kept) differs from this one, such as ``margin 0.5 → 0.35``."""
        changes = []
        if before.get("version") != self.version:
            changes.append(f"version {before.get('version')} → {self.version}")
        for part, now in (("settings", to_json(self.settings)), ("weights", to_json(self.weights))):
            old = before.get(part, {})
            for key in sorted(key for key in {*old, *now} if old.get(key) != now.get(key)):
                values = f"{_in_words(old.get(key))} → {_in_words(now.get(key))}"
                changes.append(f"{key} {values}" if part == "settings" else f"weights of {key} changed")
        return changes


def to_json(value: Any) -> Any:
    """A value as JSON would give it back: tuples as lists, NumPy scalars as Python's."""
    return json.loads(json.dumps(value, default=lambda v: v.item() if hasattr(v, "item") else list(v)))


def _in_words(value: Any) -> str:
    return "none" if value is None else "x".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Input(Generic[R]):
    """What a row is made from: a photo, a hash of all that it depends on, and what the stage must know of the photo."""

    image: str
    key: str
    row: R


@dataclass
class Report:
    """What a command did: rows made, by stage; image -> why something of it could not be made this time (the next run
    tries again); sentences for the user. ``progress`` is where it reports."""

    progress: Progress = field(default_factory=Silent)
    computed: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Tables:
    """The tables and rows that all stages of one cache have made; each file is read once."""

    def __init__(self, cache: Cache, stages: Sequence[Stage]) -> None:
        self.cache = cache
        self.stages = {stage.name: stage for stage in stages}
        self._kept: dict[tuple[str, str], Any] = {}

    def _once(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        if (kind, name) not in self._kept:
            self._kept[kind, name] = make()
        return self._kept[kind, name]

    def forget(self, name: str) -> None:
        """Read the files of a stage anew: it has changed them."""
        self._kept = {key: value for key, value in self._kept.items() if key[0] != "current" and key[1] != name}

    def _map(self, name: str) -> MapStage[Any]:
        stage = self.stages[name]
        assert isinstance(stage, MapStage)
        return stage

    def is_current(self, name: str) -> bool:
        """Whether nothing has changed since all rows of a MapStage were made."""
        return bool(self._once("current", name, lambda: self._map(name).is_current(self)))

    def table(self, name: str) -> pd.DataFrame:
        """The table of a TableStage. It is shared: it is not to be changed.

        Raises:
            UserError: it is not there, or damaged.
        """
        stage = self.stages[name]
        assert isinstance(stage, TableStage)
        frame: pd.DataFrame = self._once("frame", name, lambda: read_table(stage.path(self.cache)))
        return frame

    def mark(self, name: str) -> str:
        """What changes when the rows of a stage do."""
        return str(self._once("mark", name, lambda: self.stages[name].mark(self)))

    def inputs(self, name: str) -> list[Input[Any]]:
        """The rows that a MapStage is to hold, made or not."""
        inputs: list[Input[Any]] = self._once("inputs", name, lambda: self._map(name).inputs(self))
        return inputs

    def live(self, name: str) -> pd.DataFrame:
        """Where the rows of a MapStage lie that are wanted and made: image, key, shard, row, sorted by image."""
        index = self._map(name).indexed(self.cache)
        if index.name == INDEX and self.is_current(name):  # mattes.parquet does not say where the rows lie
            return read_table(index, list(shards.PLACE)).astype(shards.PLACE)
        committed = self._once("committed", name, lambda: self._map(name).committed(self))
        return shards.select(committed, [(i.image, i.key) for i in self.inputs(name)])

    def rows(self, name: str) -> pa.Table | None:
        """The rows of :meth:`live` with all columns; None where there are none."""
        return shards.read_rows(self._map(name).folder(self.cache), self.live(name))

    def pixels(self, name: str) -> NDArray[np.uint8]:
        """The pixels of :meth:`live`, uint8 [n, ...]."""
        stage, live = self._map(name), self.live(name)
        made = np.empty((len(live), *(stage.array_shape or ())), np.uint8)
        for shard, part in live.groupby("shard"):
            path = shards.shard_path(stage.folder(self.cache), int(str(shard))).with_suffix(".npy")
            made[part.index.to_numpy()] = np.load(path, mmap_mode="r")[part["row"].to_numpy()]
        return made


@dataclass(frozen=True)
class StageStatus:
    """One stage: how many rows are current, how many the next run will make, bytes on disk, and what is out of date and
    why (empty when all is current)."""

    name: str
    rows: int
    missing: int
    size: int
    why: str = ""


EARLIER = "an earlier stage is out of date"


class Stage(ABC):
    """What both kinds have in common."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the stages whose tables or rows it reads; they come before it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name, one for each stage of a cache, such as ``detect`` or ``crop:face``."""

    @property
    @abstractmethod
    def recipe(self) -> Recipe:
        """Version, settings and weights."""

    @abstractmethod
    def mark(self, tables: Tables) -> str:
        """What changes when its rows do; empty where there are none."""

    @abstractmethod
    def status(self, tables: Tables, upstream: bool) -> StageStatus:
        """What is current and what is not; reads only. ``upstream``: a stage that this one needs is out of date."""

    def other_inputs(self, tables: Tables) -> Any:
        """What it is made from besides its recipe and the stages it needs, for :meth:`made_from`."""
        return None

    def made_from(self, tables: Tables) -> str:
        """A hash of everything that it would be made from now."""
        marks = [tables.mark(name) for name in self.needs if name in tables.stages]
        return fingerprint(self.name, self.recipe.to_dict(), marks, self.other_inputs(tables))

    def notes(self, tables: Tables) -> list[str]:
        """Sentences for the user, whether anything was made or not."""
        return []


class TableStage(Stage):
    """One table, made from other tables as a whole."""

    file: ClassVar[str]
    counted: ClassVar[bool] = True
    """Whether its rows count as work in the summary of a command."""

    stale: ClassVar[str] = "its settings changed"
    """Why the table is out of date where no earlier stage is."""

    def path(self, cache: Cache) -> Path:
        """Where its table lies."""
        return cache.root / self.file

    @abstractmethod
    def build(self, tables: Tables, report: Report) -> pa.Table:
        """Make the table."""

    def mark(self, tables: Tables) -> str:
        return values_mark(self.path(tables.cache))

    def recorded(self, tables: Tables) -> str:
        """What its table was made from."""
        return inputs_of(self.path(tables.cache))

    def refresh(self, tables: Tables, report: Report) -> None:
        """Make the table, unless it is current."""
        made_from = self.made_from(tables)
        if self.recorded(tables) != made_from:
            table = self.build(tables, report)
            tables.cache.keep_sum(self.file, values_of(table), written=False)
            write_table(self.path(tables.cache), table, inputs=made_from)
            tables.forget(self.name)
            if self.counted:
                report.computed[self.name] += len(tables.table("images"))
        tables.cache.keep_sum(self.file, tables.mark(self.name), written=True)
        report.notes += self.notes(tables)

    def status(self, tables: Tables, upstream: bool) -> StageStatus:
        path = self.path(tables.cache)
        size, rows = (path.stat().st_size if path.is_file() else 0), len(tables.table("images"))
        try:
            current = not upstream and self.recorded(tables) == self.made_from(tables)
        except UserError as error:  # a file that the user names is gone or broken
            return StageStatus(self.name, 0, rows, size, error.message)
        why = "" if current else "not made yet" if not size else EARLIER if upstream else self.stale
        return StageStatus(self.name, rows if current else 0, 0 if current else rows, size, why)


class MapStage(Stage, Generic[R]):
    """A row for every photo. Objects are pickled to the workers."""

    columns: ClassVar[pa.Schema]
    rows_per_shard: ClassVar[int] = 64
    reads_photos: ClassVar[bool] = True
    follows: ClassVar[str] = ""
    """Name of a stage whose row of a photo is all this one must know of it: new photos pass through both at once."""

    @property
    def array_shape(self) -> tuple[int, ...] | None:
        """Shape of the uint8 array of one row, None for a stage without pixels."""
        return None

    @abstractmethod
    def inputs(self, tables: Tables) -> list[Input[R]]:
        """Every row that it is to hold."""

    @abstractmethod
    def open(self) -> AbstractContextManager[Compute]:
        """Load what it needs, in the process that uses it."""

    def follow(self, image: str, row: dict[str, Any]) -> Input[R] | None:
        """The input of a photo from the row that the stage it follows has just made of it; None where it has none."""
        raise NotImplementedError

    def may_follow(self, image: str) -> bool:
        """Whether a new photo is to be passed through this stage at once."""
        return True

    def worker(self) -> MapStage[R]:
        """The stage as it is sent to the workers."""
        return self

    def prepare(self) -> None:
        """Bring what it cannot do without, such as a file of weights. Raises UserError where it cannot be had."""

    def folder(self, cache: Cache) -> Path:
        """Where its shards lie."""
        return cache.rows(self.name.replace(":", "-"))

    def described(self, cache: Cache) -> Path:
        """The JSON file that says what its rows were made with."""
        return self.folder(cache) / DESCRIPTION

    def marked(self, cache: Cache) -> Path:
        """The hidden JSON file that says of which inputs and files the rows are current; it holds times of files."""
        described = self.described(cache)
        return described.with_name(f".{described.name}")

    def indexed(self, cache: Cache) -> Path:
        """The table of its live rows."""
        return self.folder(cache) / INDEX

    def description(self, tables: Tables) -> dict[str, Any]:
        """What its JSON file says besides the recipe."""
        return {}

    def shard_files(self, cache: Cache) -> list[Path]:
        """Files whose change means that rows may have changed."""
        return shards.shard_files(self.folder(cache))

    def purge(self, tables: Tables) -> list[str]:
        """Delete shards that cannot be used, so that they are made anew; sentences about them."""
        shards.drop_damaged(self.folder(tables.cache), self.array_shape)
        return []

    def committed(self, tables: Tables) -> pd.DataFrame:
        """Where all of its rows lie, wanted or not: image, key, shard, row."""
        if self._files(tables.cache) == _read_json(self.marked(tables.cache)).get("files"):
            return read_table(self.indexed(tables.cache), list(shards.PLACE))
        return shards.read_index(self.folder(tables.cache))

    def index(self, tables: Tables, live: pd.DataFrame) -> pa.Table:
        """The table of live rows."""
        return pa.Table.from_pandas(live, preserve_index=False)

    def settle(self, tables: Tables, report: Report) -> None:
        """After its shards are made: write the index, then delete shards of which no row is live."""
        live = tables.live(self.name)
        table, path = self.index(tables, live), self.indexed(tables.cache)
        if values_mark(path) != values_of(table):
            write_table(path, table, inputs=fingerprint("rows", live[["image", "key"]].to_numpy().tolist()))
        shards.finish(self.folder(tables.cache), live)

    # ------------------------------------------------------------ the same for all

    def key(self, *parts: Any) -> str:
        """The key of a row, a hash of what it is made from."""
        return fingerprint(*parts, self._made_by)

    @cached_property
    def _made_by(self) -> str:
        return fingerprint(self.name.partition(":")[0], self.recipe.to_dict())

    def mark(self, tables: Tables) -> str:
        return inputs_of(self.indexed(tables.cache))

    def recorded_recipe(self, cache: Cache) -> dict[str, Any]:
        """The recipe that its rows were made with, in the form kept; empty where there is none."""
        recipe = _read_json(self.described(cache)).get("stage")
        return recipe if isinstance(recipe, dict) else {}

    def _files(self, cache: Cache) -> str:
        facts = [(p.name, (info := p.stat()).st_size, info.st_mtime_ns) for p in self.shard_files(cache)]
        return fingerprint(facts, values_mark(self.indexed(cache)))  # and the index is the one that was written

    def is_current(self, tables: Tables) -> bool:
        """Whether nothing has changed since all of its rows were made: no key is looked at."""
        before = _read_json(self.marked(tables.cache))
        return (
            before.get("made_from") == self.made_from(tables)
            and before.get("files") == self._files(tables.cache)
            and _read_json(self.described(tables.cache)) == self._record(tables)
        )

    def _record(self, tables: Tables) -> dict[str, Any]:
        """What its JSON file says."""
        return dict(to_json({**self.description(tables), "stage": self.recipe.to_dict()}))

    def close(self, tables: Tables, report: Report) -> None:
        """Settle, and note what the rows were made from; not where rows are missing, so that they are tried again."""
        self.settle(tables, report)
        tables.forget(self.name)
        whole = len(tables.live(self.name)) == len(tables.inputs(self.name))
        marks = {"made_from": self.made_from(tables) if whole else "", "files": self._files(tables.cache)}
        records = {self.described(tables.cache): self._record(tables), self.marked(tables.cache): marks}
        for path, record in records.items():
            if path.name == VIEW:  # it is opened by readers
                tables.cache.keep_sum(f"{path.parent.name}/{VIEW}", fingerprint(record), written=False)
            if _read_json(path) != record:
                write_json(path, record)
            if path.name == VIEW:
                tables.cache.keep_sum(f"{path.parent.name}/{VIEW}", fingerprint(record), written=True)

    def size(self, cache: Cache) -> int:
        """Bytes on disk."""
        return folder_size(self.folder(cache))

    def status(self, tables: Tables, upstream: bool) -> StageStatus:
        size = self.size(tables.cache)
        try:
            if not upstream and tables.is_current(self.name):
                return StageStatus(self.name, len(read_table(self.indexed(tables.cache), ["image"])), 0, size)
            wanted = tables.inputs(self.name)
        except UserError as error:  # a table is missing, or a file of weights
            return StageStatus(self.name, 0, 0, size, error.message)
        have = self.committed(tables)
        pairs, images = set(zip(have["image"], have["key"], strict=True)), set(have["image"])
        missing = [i.image for i in wanted if (i.image, i.key) not in pairs]
        why = EARLIER if upstream else ""
        if missing and (before := self.recorded_recipe(tables.cache)) and (changes := self.recipe.changes(before)):
            why = "; ".join(changes)
        elif missing:
            kinds = Counter("new" if image not in images else "changed" for image in missing)
            why = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        return StageStatus(self.name, len(wanted) - len(missing), len(missing), size, why)

    def explain(self, tables: Tables, image: str) -> str:
        """Whether the row of one photo is current, and where it lies."""
        try:
            keys = [i.key for i in tables.inputs(self.name) if i.image == image]
        except UserError as error:
            return error.message
        have = self.committed(tables)
        own = have[have["image"] == image]
        if not keys:
            return "not wanted"
        if keys[0] in set(own["key"]):
            at = own[own["key"] == keys[0]].iloc[0]
            return f"current (shard {at['shard']:05d}, row {at['row']}, key {keys[0][:12]})"
        if len(own):
            changes = self.recipe.changes(self.recorded_recipe(tables.cache))
            return f"out of date: {'; '.join(changes) or 'the photo or its subject changed'}"
        return "not made yet"


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        data = json.loads(read_once(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
