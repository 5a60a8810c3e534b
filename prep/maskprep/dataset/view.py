"""Read a cache for training: one table of images with their labels, and their pixels straight from the shards.

Plain numpy and pandas, no torch. Pixels are memory-mapped, so opening a cache costs the same whatever its size and a
batch touches only its own rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, read_json, some
from maskprep.crops import CHANNELS, FOREGROUND, SOLID, Background, moments
from maskprep.labels import Schema, persons
from maskprep.store import INDEX, MATTES, VIEW, Cache, cure, fingerprint, inputs_of, read_table, values_mark

DEFAULT_VIEW = "face"
"""The view that is meant where none is named and there are several."""

SUMS = [f"{kind}_{c}" for kind in ("sum", "sumsq") for c in CHANNELS]

Indices = NDArray[np.integer[Any]] | Sequence[int]


@dataclass(frozen=True)
class View:
    """The crops of one geometry, with what is known about each image.

    Attributes:
        path: the cache it belongs to.
        table: one row per image that has a crop, sorted by image, numbered from 0: image, person (the image itself
            where nobody is named), split (train or eval), status, content, label (nullable joint class), excluded
            (null or the reason), the attributes, key, shard, row, the per-crop sums, matte (its status, null for a crop
            without one) and the sums of the foreground.
        missing: the images without a crop, with the same columns up to the attributes.
        size: height and width of the crops in pixels.
        info: view.json, the geometry of the crops.
        dataset: dataset.json, the source and the settings of every stage.
        shards: memory-mapped uint8 [n, H, W, 3] RGB by shard number.
        alphas: memory-mapped mattes uint8 [n, H, W] by shard number, 255 = the subject; only where there are some.
        background: what lies behind the subjects when crops are gathered.
        checked: by shard number, which of its rows have been compared with their sums: each is when it is first read.
    """

    name: str
    path: Path
    schema: Schema
    table: pd.DataFrame
    missing: pd.DataFrame
    size: tuple[int, int]
    info: dict[str, Any]
    dataset: dict[str, Any]
    shards: dict[int, NDArray[np.uint8]] = field(repr=False)
    alphas: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    background: Background = field(default_factory=Background)
    checked: dict[int, NDArray[np.bool_]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.table)

    def _repr_html_(self) -> str:
        """For notebooks: a contact sheet, a few crops of each class."""
        from maskprep.dataset.sheet import embedded_sheet  # which uses views

        return embedded_sheet(self)

    @property
    def persons_known(self) -> float:
        """Share of the images of the split train whose person is known, see :func:`maskprep.labels.persons.known`."""
        return persons.known(self.table, self.dataset.get("source"))

    def person_doubts(self) -> tuple[str, ...]:
        """What follows where persons are not known, and how to say who is who."""
        return persons.doubts(self.table, self.dataset.get("source"), self.schema)

    def before(self, background: Background) -> View:
        """The same view with something else behind its subjects; nothing is read before it is gathered."""
        return dataclasses.replace(self, background=background)

    def gather(
        self, indices: Indices, out: NDArray[np.uint8] | None = None, epoch: int | None = None
    ) -> NDArray[np.uint8]:
        """Pixels of the given table rows, in the order asked for, before :attr:`background`.

        Args:
            indices: row numbers of :attr:`table`; repeats are allowed.
            out: where to put them, uint8 [n, H, W, 3] RGB; a new array if not given.
            epoch: for random backgrounds; without it these are left as they are.

        Raises:
            UserError: a crop without a matte, where the background is to change; or one that is damaged.
        """
        pixels = self.gather_original(indices, out)
        self.background.lay(self, pixels, np.asarray(indices, dtype=np.int64), epoch)
        return pixels

    def gather_original(self, indices: Indices, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """As :meth:`gather`, with the backgrounds that the photos have."""
        return self._gather(self.shards, indices, out, (*self.size, 3), self._check)

    def _gather(
        self,
        shards: Mapping[int, NDArray[np.uint8]],
        indices: Indices,
        out: NDArray[np.uint8] | None,
        shape: tuple[int, ...],
        check: Callable[[int, NDArray[np.uint8]], None],
    ) -> NDArray[np.uint8]:
        """Copy rows of the mapped shards and check each. Reads run along the shards, whatever the order asked for."""
        where = np.asarray(indices, dtype=np.intp)
        out = np.empty((len(where), *shape), np.uint8) if out is None else out
        shard, row = self._shard[where], self._row[where]
        for i in np.lexsort((row, shard)).tolist():
            out[i] = shards[shard[i]][row[i]]
            check(int(where[i]), out[i])
        return out

    def _check(self, index: int, pixels: NDArray[np.uint8]) -> None:
        """Compare a crop that is read for the first time with its sums; pixels that come from no cache have none."""
        if SUMS[0] not in self.table:
            return
        shard, row = int(self._shard[index]), int(self._row[index])
        checked = self.checked.setdefault(shard, np.zeros(len(self.shards[shard]), np.bool_))
        if not checked[row] and not is_intact(pixels, self._sums[index]):
            raise self._damaged(self.shards, index, "crop")
        checked[row] = True

    def _check_alpha(self, index: int, alpha: NDArray[np.uint8]) -> None:
        if np.count_nonzero(alpha >= SOLID) != self._solid[index]:
            raise self._damaged(self.alphas, index, "matte")

    def _damaged(self, shards: Mapping[int, NDArray[np.uint8]], index: int, what: str) -> UserError:
        file = Path(str(getattr(shards[int(self._shard[index])], "filename", self.path)))
        image = self.table["image"].iloc[index]
        return UserError(f"'{file}' is damaged: the {what} of {image} is not the one that was made.", cure(file))

    def gather_alpha(self, indices: Indices, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Mattes of the given table rows, uint8 [n, H, W], 255 = the subject; see :meth:`gather`.

        Raises:
            UserError: one of the crops has no matte, or a damaged one.
        """
        self.need_mattes(indices)
        return self._gather(self.alphas, indices, out, self.size, self._check_alpha)

    def matte_statuses(self, indices: Indices) -> list[str | None]:
        """Status of the matte of each of some table rows, None without one."""
        found: list[str | None] = self.table["matte"].iloc[np.asarray(indices, dtype=np.intp)].tolist()
        return found

    def mattes_fingerprint(self) -> str:
        """What the mattes of this view were made from: equal means equal mattes; empty without any."""
        return inputs_of(Cache(self.path).view(self.name) / MATTES)

    def need_mattes(self, indices: Indices) -> None:
        """Make sure that the crops of some table rows have mattes.

        Raises:
            UserError: they do not, naming some.
        """
        rows = self.table.iloc[np.asarray(indices, dtype=np.intp)]
        if not rows["matte"].isna().any():
            return
        without = rows["image"][rows["matte"].isna()].tolist()
        which = f"{len(without)} of {len(rows)} crops without mattes ({some(without)})"
        raise UserError(
            f"View '{self.name}' of {self.path} has {'no mattes' if len(without) == len(rows) else which}.",
            f"Make them with: maskprep rembg {self.path} --view {self.name}",
        )

    def mean_std(
        self, indices: Indices, *, foreground: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation per channel (0..1, float64 [3]), from the integer sums kept of every crop.

        Args:
            indices: row numbers of :attr:`table`.
            foreground: only over pixels that are the subject's (matte at least 128), not over whole crops.

        Raises:
            UserError: no crops, or crops without mattes where the foreground is wanted.
        """
        where = np.asarray(indices, dtype=np.intp)
        if foreground:
            self.need_mattes(where)
        found = moments(self.table.iloc[where], "fg_" if foreground else "")
        if found is None:
            raise UserError("No crops to take the mean and standard deviation of.")
        return np.array(found.mean), np.array(found.std)

    def fingerprint(self) -> str:
        """Hash over every image with its crop's key, label, person, split and exclusion: equal means equal data."""
        columns = ["image", "key", "label", "person", "split", "excluded"]
        digest = hashlib.sha256(f"{self.name} {self.size} {self.schema.to_dict()}\n".encode())
        for values in self.table[columns].astype(object).itertuples(index=False):
            digest.update("\t".join("" if pd.isna(v) else str(v) for v in values).encode() + b"\n")
        return digest.hexdigest()

    @cached_property
    def _shard(self) -> NDArray[np.int64]:
        return self.table["shard"].to_numpy()

    @cached_property
    def _row(self) -> NDArray[np.int64]:
        return self.table["row"].to_numpy()

    @cached_property
    def _sums(self) -> NDArray[np.int64]:
        return self.table[SUMS].to_numpy(np.int64)

    @cached_property
    def _solid(self) -> NDArray[np.int64]:
        """Pixels of each crop's foreground, -1 without a matte."""
        return self.table["fg_count"].fillna(-1).to_numpy(np.int64)


def is_intact(pixels: NDArray[np.uint8], sums: NDArray[np.int64]) -> bool:
    """Whether a crop is the one that was cut, by the sums that its table keeps: any change of one value is noticed.

    Args:
        pixels: uint8 [H, W, 3].
        sums: of its values by channel and of their squares by channel, int64 [6].
    """
    pixels = np.ascontiguousarray(pixels)
    return cv2.sumElems(pixels)[:3] == tuple(sums[:3]) and cv2.norm(pixels, cv2.NORM_L2SQR) == sums[3:].sum()


def open_view(cache: Path | str, view: str | None = None) -> View:
    """Open one view of a cache: the one named, the only one, or ``face``.

    Raises:
        UsageError: not a cache, no such view, or several to choose from.
        UserError: tables and shards that do not fit each other.
    """
    path = Path(cache)
    dataset = Cache(path).read()
    folder = _view_folder(Cache(path), view)
    info = read_json(folder / VIEW, {"size": list}, cure(folder / VIEW))
    if len(info["size"]) != 2 or not all(type(side) is int and side > 0 for side in info["size"]):
        raise _corrupt(folder / VIEW, "it gives no height and width")
    if not Cache(path).is_own(f"{folder.name}/{VIEW}", fingerprint(info)):
        raise _corrupt(folder / VIEW, "it is not the one that was made for this cache")
    size = (info["size"][0], info["size"][1])
    schema = Schema.from_dict(dataset["schema"])
    images = image_table(path, schema)
    crops, shards = _open_shards(folder, size)
    crops, alphas = _open_mattes(folder, crops, size)
    table = images.merge(crops, on="image", how="inner", validate="one_to_one").sort_values("image", ignore_index=True)
    if len(table) != len(crops):
        stray = sorted(set(crops["image"]) - set(table["image"]))
        raise _corrupt(folder / INDEX, "it lists images that images.parquet does not", stray)
    missing = images[~images["image"].isin(table["image"])].sort_values("image", ignore_index=True)
    return View(folder.name, path, schema, table, missing, size, info, dataset, shards, alphas)


def image_table(cache: Path, schema: Schema) -> pd.DataFrame:
    """Every image of the cache, readable or not, with its person, split, status and labels (see :class:`View`)."""
    files = Cache(cache)
    images = read_table(files.images, needs=["image"])
    table = images[["image"]].astype({"image": object})
    if (twice := table["image"][table["image"].duplicated()]).size:
        raise _corrupt(files.images, "it lists images twice", sorted(twice))
    subjects = _of_images(files.subjects, table, ["status"])
    labels = _of_images(files.labels, table, ["person", "label", "excluded", *schema.names])
    table["person"] = _column(labels, "person").where(lambda s: s.notna(), _column(images, "person"))
    table["person"] = table["person"].where(table["person"].notna(), table["image"]).astype(str).astype(object)
    table["split"] = _column(images, "split").where(lambda s: s.notna(), "train")
    table["content"] = _column(images, "content")
    table["status"] = _column(subjects, "status")
    table["label"] = pd.to_numeric(_column(labels, "label")).astype("Int64")
    table["excluded"] = _column(labels, "excluded")
    for name in schema.names:
        table[name] = _column(labels, name)
    for file in (files.images, files.subjects, files.labels):
        if not files.is_own(file.name, values_mark(file)):
            raise _corrupt(file, "it is not the one that was made for this cache")
    return table


def _view_folder(cache: Cache, view: str | None) -> Path:
    """Folder of the view asked for, or of the one that goes without saying."""
    names, root = cache.views(), cache.root
    if not names:
        raise UsageError(f"{root} has no crops yet.", f"Make them with: maskprep crop {root}")
    if view is None:
        if len(names) > 1 and DEFAULT_VIEW not in names:
            raise UsageError(f"{root} has several views: {', '.join(names)}.", "Choose one with --view.")
        view = names[0] if len(names) == 1 else DEFAULT_VIEW
    if view not in names:
        raise UsageError(
            f"{root} has no view '{view}'; it has: {', '.join(names)}.",
            f"Make it with: maskprep crop {root} --view {view}",
        )
    folder = cache.view(view)
    if not (folder / INDEX).is_file():
        raise UsageError(f"View '{view}' of {root} is not finished.", f"Finish it with: maskprep crop {root}")
    return folder


def _open_shards(folder: Path, size: tuple[int, int]) -> tuple[pd.DataFrame, dict[int, NDArray[np.uint8]]]:
    """The live crops (image, key, shard, row, sums) and the mapped pixels of the shards they lie in."""
    index = read_table(folder / INDEX, ["image", "shard", "row"])
    index = index.astype({"image": object, "shard": "int64", "row": "int64"})
    if (twice := index["image"][index["image"].duplicated()]).size:
        raise _corrupt(folder / INDEX, "it lists images twice", sorted(twice))
    shards: dict[int, NDArray[np.uint8]] = {}
    needs = ["image", "key", "row", *SUMS, "count"]
    tables = [pd.DataFrame(columns=[*needs, "shard"])]
    for number in sorted(set(index["shard"].tolist())):
        file = folder / f"{number:05d}.npy"
        rows = read_table(file.with_suffix(".parquet"), needs=needs)
        kept = [c for c in (*needs, *FOREGROUND) if c in rows]
        rows = rows[kept].assign(shard=number).astype({"image": object})
        shards[number] = _map_shard(file, len(rows), size)
        tables.append(rows)
    if not shards:
        return tables[0], shards
    crops = index.merge(pd.concat(tables[1:], ignore_index=True), on=["image", "shard", "row"], how="left")
    if (lost := crops["image"][crops["key"].isna()]).size:
        raise _corrupt(folder / INDEX, "it points at rows that the shards do not have", sorted(lost))
    return crops.astype(dict.fromkeys([*SUMS, "count"], "int64")), shards


def _open_mattes(
    folder: Path, crops: pd.DataFrame, size: tuple[int, int]
) -> tuple[pd.DataFrame, dict[int, NDArray[np.uint8]]]:
    """The crops with the status of their mattes and the sums of their foreground, and the mapped alpha planes.

    A matte counts only for the very crop it was made from, by key.
    """
    for name in FOREGROUND:
        if name not in crops:
            crops[name] = None
    file = folder / MATTES
    if not file.is_file():
        return crops.assign(matte=None), {}
    mattes = read_table(file, needs=["image", "key", "status"]).rename(columns={"status": "matte"})
    sums = [name for name in FOREGROUND if name in mattes]  # caches of earlier versions keep them beside the crops
    crops = crops.drop(columns=sums).merge(
        mattes[["image", "key", "matte", *sums]].astype(object), on=["image", "key"], how="left"
    )
    crops["matte"] = crops["matte"].where(crops["matte"].notna(), None)
    alphas = {}
    for shard, rows in crops[crops["matte"].notna()].groupby("shard"):
        number = int(str(shard))
        alphas[number] = _map_shard(folder / f"alpha-{number:05d}.npy", int(rows["row"].max()) + 1, size, least=True)
    return crops, alphas


def _map_shard(file: Path, rows: int, size: tuple[int, int], *, least: bool = False) -> NDArray[np.uint8]:
    """Memory-map one shard and check its shape against its table and its view. ``least`` is for mattes: one plane per
    row instead of three, and possibly more rows than are known here."""
    try:
        pixels: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"There is no file '{file}'.", cure(file)) from None
    except (ValueError, OSError, EOFError) as error:
        raise _corrupt(file, str(error)) from None
    wanted = (max(rows, len(pixels)), *size) if least else (rows, *size, 3)
    if pixels.shape != wanted or pixels.dtype != np.uint8:
        raise _corrupt(file, f"it holds {pixels.dtype} {pixels.shape}, its tables say uint8 {wanted}")
    return pixels


def _of_images(file: Path, table: pd.DataFrame, needs: Sequence[str]) -> pd.DataFrame:
    """A table with a row for every image, in the row order of ``table``."""
    other = read_table(file, ["image", *needs]).astype({"image": object})
    if sorted(other["image"]) != sorted(table["image"]):
        raise _corrupt(file, "it does not list the same images as images.parquet")
    return table[["image"]].merge(other, on="image", how="left")


def _column(table: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A column as objects with None for null; all null when the table does not have it."""
    values = table.get(name, pd.Series(None, table.index)).astype(object)
    return values.where(values.notna(), None)


def _corrupt(file: Path, what: str, examples: Sequence[str] = ()) -> UserError:
    return UserError(f"'{file}' is damaged: {what}{': ' if examples else ''}{some(examples)}.", cure(file))
