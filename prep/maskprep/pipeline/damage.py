"""Whether a cache is as it was written: all tables and pixels are read and compared with their checksums and sums."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import Progress, Silent, UserError, counted, some
from maskprep.crops import SOLID
from maskprep.dataset import SUMS, is_intact, open_view
from maskprep.mattes import plane_path
from maskprep.store import (
    INDEX,
    MATTES,
    PLAN,
    VIEW,
    Cache,
    MapStage,
    Tables,
    read_table,
    shard_numbers,
    shard_path,
    to_json,
    values_mark,
)


@dataclass
class Verified:
    """What came of it: damaged file -> what is wrong with it; how many tables, crops and mattes were compared."""

    damaged: dict[Path, str] = field(default_factory=dict)
    tables: int = 0
    crops: int = 0
    mattes: int = 0


def verify(cache: Cache, tables: Tables | None = None, progress: Progress | None = None) -> Verified:
    """Read everything that a cache holds. With the tables of its stages, where the photos are there, what stages say of
    their rows is compared, too. Raises UserError where it is no cache or dataset.json is damaged."""
    cache.read()
    found, progress = Verified(), progress or Silent()
    work = list(_work(cache, found))
    progress.start("verify", len(work))
    for check, path in work:
        try:
            check(path)
        except UserError as error:
            found.damaged[path] = error.message
        progress.advance()
    _compare_images(cache, found)
    for view in cache.views():
        _compare_view(cache, view, found)
    if tables is not None and not found.damaged:
        _compare_descriptions(tables, found)
    return found


def check_accounts(cache: Cache, no_face: str) -> None:
    """Every photo has exactly one row in every table, or something is very wrong.

    Args:
        cache: up to date.
        no_face: the setting of that name.

    Raises:
        UserError: the tables do not agree; or photos without a face are an error by the settings.
    """
    images = read_table(cache.images, ["image"])["image"].tolist()
    if doubles := sorted(image for image, count in Counter(images).items() if count > 1):
        raise UserError(f"Several photos have the same name in '{cache.images}': {some(doubles)}.", "Rename them.")
    subjects = read_table(cache.subjects, ["image", "status"])
    for path, listed in ((cache.subjects, subjects), (cache.labels, read_table(cache.labels, ["image"]))):
        if listed["image"].tolist() != images:
            raise UserError(
                f"'{path}' does not list the same images as '{cache.images}'.",
                "Delete both and run the command again.",
            )
    if no_face == "error" and (without := subjects["image"][subjects["status"] == "no_face"].tolist()):
        raise UserError(
            f"{counted(len(without), 'photo')} without a face: {some(without)}.",
            "See them with maskprep faces; then decide in maskprep review, or choose another --no-face.",
        )


def discard(found: Verified) -> None:
    """Delete what is damaged, tables before their pixels, and what says where their rows lie; the next run makes it."""
    for path in found.damaged:
        numbered = path.stem.removeprefix("alpha-").isdigit()
        beside = [path.parent / INDEX, path.parent / MATTES, path.with_suffix(".parquet")] if numbered else []
        for file in (*beside, path):
            file.unlink(missing_ok=True)


def _work(cache: Cache, found: Verified) -> Iterator[tuple[Callable[[Path], None], Path]]:
    """The checks of single files."""

    def table(path: Path) -> None:
        read_table(path)
        found.tables += 1

    def pixels(path: Path) -> None:
        if path.with_suffix(".parquet") not in found.damaged:
            _check_pixels(path, found)

    for path in sorted(cache.root.rglob("*.json")):
        if path.name != PLAN:
            yield _check_json, path
    for folder in sorted(p for kind in ("stages", "views") for p in cache.root.glob(f"{kind}/*") if p.is_dir()):
        tables = [shard_path(folder, number) for number in shard_numbers(folder)]
        for path in (*tables, *sorted(folder.glob("alpha-*.parquet"))):
            yield table, path
            if path.with_suffix(".npy").is_file() or folder.parent.name == "views":
                yield pixels, path.with_suffix(".npy")
        yield from ((table, path) for path in sorted(folder.glob("*.parquet")) if not path.stem[-1].isdigit())
    for path in sorted([*cache.root.glob("*.parquet"), *cache.root.glob("audit/*.parquet")]):
        yield table, path


def _check_json(path: Path) -> None:
    try:
        right = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"it cannot be read: {error}") from error
    if not right:
        raise UserError("it holds no object")


def _check_pixels(path: Path, found: Verified) -> None:
    """The crops or the mattes of a shard; mattes lie in the rows of their crops."""
    rows = read_table(path.with_suffix(".parquet"), needs=("image", "key", "row"))
    if path.stem.startswith("alpha-"):
        crops = read_table(shard_path(path.parent, int(path.stem.removeprefix("alpha-"))), ["image"])["image"]
        if not rows["row"].between(0, len(crops) - 1).all() or rows["image"].tolist() != crops[rows["row"]].tolist():
            raise UserError("its table lists other images than its crops")
        _compare_alpha(rows, _load(path, (len(crops), None, None)))
        found.mattes += len(rows)
    elif path.parent.parent.name == "views":
        sums = read_table(path.with_suffix(".parquet"), SUMS).to_numpy(np.int64)
        pixels = _load(path, (len(rows), None, None, 3))
        _name(rows, [i for i in range(len(rows)) if not is_intact(pixels[i], sums[i])])
        found.crops += len(rows)
    else:
        pixels = _load(path, (len(rows), ...))
        if "alpha_crc" in rows:
            _compare_alpha(rows, pixels)


def _compare_alpha(rows: pd.DataFrame, arrays: NDArray[np.uint8]) -> None:
    """By their CRC-32; mattes of earlier versions by the size of their foreground, where that is known."""
    wrong = []
    for i, row in enumerate(rows.to_dict("records")):
        alpha, crc, solid = np.ascontiguousarray(arrays[row["row"]]), row.get("alpha_crc"), row.get("fg_count")
        by_size = pd.isna(solid) or np.count_nonzero(alpha >= SOLID) == int(solid)
        if not (by_size if pd.isna(crc) else zlib.crc32(alpha.tobytes()) == int(crc)):
            wrong.append(i)
    _name(rows, wrong)


def _load(path: Path, shape: tuple[Any, ...]) -> NDArray[np.uint8]:
    """Map an array of uint8. In its shape None is any size, and ``...`` ends one of any number of sides."""
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"it cannot be read: {error}") from error
    fits = shape[-1] is ... or len(array.shape) == len(shape)
    fits = fits and all(n in (None, ..., have) for n, have in zip(shape, array.shape, strict=False))
    if not fits or array.dtype != np.uint8:
        raise UserError(f"it holds {array.dtype} {array.shape}, which does not fit its table")
    return array


def _name(rows: pd.DataFrame, wrong: list[int]) -> None:
    if wrong:
        raise UserError(f"it holds other pixels than were made for {some(rows['image'].iloc[wrong].tolist())}")


def _compare_images(cache: Cache, found: Verified) -> None:
    """Every table of images lists the same ones."""
    if not cache.images.is_file():
        found.damaged[cache.images] = "it is missing"
    if {cache.images, cache.subjects, cache.labels} & found.damaged.keys():
        return
    images = sorted(read_table(cache.images, ["image"])["image"])
    if len(set(images)) < len(images):
        found.damaged[cache.images] = "it lists images twice"
    for path in (cache.subjects, cache.labels):
        if not path.is_file():
            if cache.views():
                found.damaged[path] = "it is missing"
        elif sorted(read_table(path, ["image"])["image"]) != images:
            found.damaged[path] = f"it does not list the same images as {cache.images.name}"
    for path in cache.root.glob("*.parquet"):
        if path not in found.damaged and not cache.is_own(path.name, values_mark(path)):
            found.damaged[path] = "it is not the one that was made for this cache"


def _compare_view(cache: Cache, name: str, found: Verified) -> None:
    """The index, the shards and the mattes of a view fit each other."""
    folder = cache.view(name)
    if {p for p in found.damaged if p.parent in (folder, cache.root)}:
        return
    if not (folder / INDEX).is_file():
        found.damaged[folder / INDEX] = "it is missing"
        return
    try:
        view = open_view(cache.root, name)
    except UserError as error:
        found.damaged |= dict.fromkeys((folder / VIEW, folder / INDEX), error.message)
        return
    if not (folder / MATTES).is_file():
        return
    matted = view.table[view.table["matte"].notna()]
    if len(matted) != len(read_table(folder / MATTES, ["image"])):
        found.damaged[folder / MATTES] = "it lists mattes of other crops"
    for shard, rows in matted.groupby("shard"):
        path = plane_path(folder, int(str(shard))).with_suffix(".parquet")
        if not path.is_file() or not set(rows["row"]) <= set(read_table(path, ["row"])["row"]):
            found.damaged[folder / MATTES] = f"it lists mattes that {path.name} does not"


def _compare_descriptions(tables: Tables, found: Verified) -> None:
    """The JSON file of a stage whose rows are all current says what they were made with."""
    for stage in tables.stages.values():
        if isinstance(stage, MapStage) and stage.described(tables.cache).is_file():
            record = json.loads(stage.described(tables.cache).read_text(encoding="utf-8"))
            try:
                current = len(tables.live(stage.name)) == len(tables.inputs(stage.name))
                expected = to_json({**stage.description(tables), "stage": stage.recipe.to_dict()})
            except UserError:  # it waits for another stage, or for weights
                continue
            if current and any(record.get(name) != value for name, value in expected.items()):
                found.damaged[stage.described(tables.cache)] = "it describes other rows than those beside it"
