"""Alpha planes beside the pixels of a view: ``alpha-NNNNN.npy``, row-aligned with ``NNNNN.npy``.

A plane is put in place with its table last and taken away with its table first, so a table never speaks of a plane that
is not there. ``mattes.parquet`` is what readers start from: it is gone while planes are replaced, and it names the crop
(by key) that each matte belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.base import UserError, write_with
from maskprep.crops import FOREGROUND
from maskprep.photos import Pixels
from maskprep.store import (
    KEYED,
    fingerprint,
    inputs_of,
    read_index,
    read_table,
    shard_path,
    sweep,
    write_table,
)

MATTES = "mattes.parquet"
DESCRIPTION = "mattes.json"

JUDGEMENT = (
    ("status", pa.string()),
    ("coverage", pa.float64()),
    ("face_coverage", pa.float64()),
    ("components", pa.int64()),
    ("border_share", pa.float64()),
)

COLUMNS = pa.schema([*JUDGEMENT, *((name, pa.int64()) for name in FOREGROUND), ("alpha_crc", pa.int64())])
"""Rows of the stage, besides image, key and row: what there is to say about a matte, the sums of the foreground, and
the CRC-32 of its pixels (mattes of earlier versions lack it)."""

TABLE = pa.schema([*((name, pa.string()) for name in ("image", "key", "model")), *list(COLUMNS)[:-1]])
"""mattes.parquet of a view. ``key`` is that of the crop, so a matte is never taken for that of another crop."""

_JUDGED = ["image", "key", "status"]
ROW = pa.schema([*KEYED, *COLUMNS])


def plane_path(folder: Path, shard: int) -> Path:
    """The alpha plane of a shard; its table lies beside it with the suffix .parquet."""
    return folder / f"alpha-{shard:05d}.npy"


def committed(folder: Path) -> pd.DataFrame:
    """Every matte that lies beside its pixels: image, key (of the matte), shard, row."""
    frames = [pd.DataFrame({"image": [], "key": [], "row": [], "shard": []}).astype({"row": int, "shard": int})]
    for path in sorted(folder.glob("alpha-*.parquet")):
        frame = read_table(path, ["image", "key", "row"])
        frames.append(frame.assign(shard=int(path.stem.removeprefix("alpha-"))))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def current(folder: Path) -> pd.DataFrame:
    """Like :func:`committed`, without those whose status is ``face_forced``: the whole box of a missed face was once
    put into the matte. They are made again; all others are as they would be now, and so are their keys.
    """
    paths = folder.glob("alpha-*.parquet")
    boxed = {(i, k) for p in paths for i, k, s in read_table(p, _JUDGED).to_numpy().tolist() if s == "face_forced"}
    home = committed(folder)
    kept = [place not in boxed for place in zip(home["image"], home["key"], strict=True)]
    return home[np.array(kept, bool)].reset_index(drop=True)


def drop_damaged(folder: Path, shape: tuple[int, int]) -> int:
    """Delete the tables of planes that are missing, cut short or not aligned with their pixels. Returns how many."""
    damaged = 0
    for path in sorted(folder.glob("alpha-*.parquet")):
        shard = int(path.stem.removeprefix("alpha-"))
        try:
            rows = len(read_table(shard_path(folder, shard), ["image"]))
            plane = np.load(plane_path(folder, shard), mmap_mode="r")
            read_table(path, ["image", "key", "row", "status"])
            whole = plane.shape == (rows, *shape) and plane.dtype == np.uint8
        except (UserError, OSError, ValueError, EOFError):
            whole = False
        if not whole:
            path.unlink()
            damaged += 1
    return damaged


def assemble(folder: Path, pieces: Path, wanted: pd.DataFrame, shape: tuple[int, int], model: str) -> int:
    """Put finished mattes beside their pixels and write mattes.parquet. Returns how many of the wanted ones there are.

    Args:
        folder: of the view.
        pieces: where the stage has left what it made.
        wanted: one row per live crop: image, key (of the matte), crop (key of the crop), shard, row.
        shape: height and width of a crop.
        model: name for the table.
    """
    old, new = current(folder), read_index(pieces)
    at_home = {(i, k, s, r) for i, k, s, r in zip(*(old[c] for c in ("image", "key", "shard", "row")), strict=True)}
    made = {(i, k): (s, r) for i, k, s, r in zip(*(new[c] for c in ("image", "key", "shard", "row")), strict=True)}
    found: list[pd.DataFrame] = []
    for shard, rows in wanted.groupby("shard", sort=True):
        number = int(str(shard))
        places = list(zip(rows["image"], rows["key"], rows["shard"], rows["row"], strict=True))
        if any(place not in at_home and place[:2] in made for place in places):
            _commit(folder, pieces, number, places, at_home, made, shape)
        path = plane_path(folder, number).with_suffix(".parquet")
        if path.is_file():
            mattes = read_table(path).merge(rows[["image", "key", "row", "crop"]], on=["image", "key", "row"])
            found.append(mattes)
    everything = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*ROW.names, "crop"])
    everything = everything.sort_values("image", ignore_index=True)
    missed = everything["image"][everything["status"] == "face_missed"].tolist()  # once another matte of the same key
    inputs = fingerprint(
        "mattes with sums", everything[["image", "key", "crop"]].to_numpy().tolist(), *([missed] if missed else [])
    )
    if everything.empty:
        (folder / MATTES).unlink(missing_ok=True)
    elif inputs_of(folder / MATTES) != inputs:
        rows = everything.assign(key=everything["crop"], model=model)[TABLE.names]
        write_table(folder / MATTES, pa.Table.from_pandas(rows, schema=TABLE, preserve_index=False), inputs=inputs)
    return len(everything)


Place = tuple[str, str, int, int]
"""image, key of its matte, shard and row of its pixels."""


def _commit(
    folder: Path,
    pieces: Path,
    shard: int,
    places: list[Place],
    at_home: set[Place],
    made: dict[tuple[str, str], tuple[int, int]],
    shape: tuple[int, int],
) -> None:
    """Write one shard's plane and table from what lies there already and what was made."""
    final = plane_path(folder, shard)
    record = final.with_suffix(".parquet")
    planes = np.zeros((len(read_table(shard_path(folder, shard), ["image"])), *shape), np.uint8)
    kept = read_table(record).set_index(["image", "key"]) if record.is_file() else None
    before = np.load(final, mmap_mode="r") if kept is not None else None
    loaded: dict[int, tuple[pd.DataFrame, Pixels]] = {}
    out: list[dict[str, Any]] = []
    for image, key, number, row in places:
        if (image, key, number, row) in at_home and kept is not None and before is not None:
            planes[row] = before[row]
            out.append({"image": image, "key": key, **_plain(kept.loc[(image, key)])})
        elif (image, key) in made:
            piece, at = made[image, key]
            if piece not in loaded:
                path = shard_path(pieces, piece)
                loaded[piece] = read_table(path), np.load(path.with_suffix(".npy"), mmap_mode="r")
            frame, arrays = loaded[piece]
            planes[row] = arrays[at]
            out.append({"image": image, "key": key, **_plain(frame.iloc[at]), "row": row})
    del before
    if final.exists():
        (folder / MATTES).unlink(missing_ok=True)  # nobody is to read half of the old and half of the new
        record.unlink(missing_ok=True)
    write_with(final, lambda part: np.save(part, planes))
    write_table(record, pa.Table.from_pylist(sorted(out, key=lambda r: r["row"]), schema=ROW))


def _plain(row: Any) -> dict[str, Any]:
    return {name: None if pd.isna(row.get(name)) else row[name] for name in ("row", *COLUMNS.names)}


def forget_pieces(pieces: Path) -> None:
    """Delete the pieces, when all of them are in place."""
    for path in sorted(pieces.glob("[0-9]*.parquet")):
        path.unlink()
    sweep(pieces)
    for path in pieces.glob("*"):
        path.unlink()
    if pieces.is_dir():
        pieces.rmdir()
