"""Keyed shards: rows (and pixels) of one stage, committed a whole shard at a time.

A row is wanted under an (image, key) pair; its key says what it was made from, so a row is current exactly when
its pair is wanted. What is missing is cut into chunks, one shard each, and the cut is written down first (plan.json):
after a kill the same chunks are finished, so the bytes do not depend on interruptions or on the number of workers.

A shard's Parquet file is written last and is what makes the shard exist. New rows go to new shards; a shard whose
rows are all out of date is deleted once its successors exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from maskprep.base import UserError, write_json
from maskprep.store.tables import read_arrow, read_table

SHARD_FILE = re.compile(r"(\d{5,})\.parquet")
PIXELS_FILE = re.compile(r"(\d{5,})\.npy")
BESIDE = re.compile(r"(\d{5,})\.npy|alpha-(\d{5,})\.(?:npy|parquet)")
"""What lies beside a shard's table: its pixels, and what is made from them later (mattes)."""

PLAN = "plan.json"
SHARES, FEWEST_ROWS = 16, 8
"""Missing rows are cut into about this many shards, each of at least so many rows, so that the workers end together."""

Pair = tuple[str, str]
"""(image, key)."""

PLACE = {"image": "str", "key": "str", "shard": "int64", "row": "int64"}
"""Where a row lies; an empty table forgets the types."""


@dataclass(frozen=True)
class Chunk:
    """One shard to be made: its number and the pairs it will hold, in order."""

    shard: int
    pairs: tuple[Pair, ...]


def shard_path(folder: Path, shard: int) -> Path:
    """The table of a shard; its pixels lie beside it with the suffix .npy."""
    return folder / f"{shard:05d}.parquet"


def shard_numbers(folder: Path) -> list[int]:
    """Numbers of the committed shards, ascending."""
    names = (SHARD_FILE.fullmatch(path.name) for path in folder.glob("*.parquet"))
    return sorted(int(match.group(1)) for match in names if match)


def read_index(folder: Path) -> pd.DataFrame:
    """Where every committed row lies: image, key, shard, row. Reads no other column."""
    frames = [pd.DataFrame(columns=list(PLACE)).astype(PLACE)]
    for shard in shard_numbers(folder):
        frame = read_table(shard_path(folder, shard), ["image", "key"])
        frames.append(frame.assign(shard=shard, row=range(len(frame))))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def shard_files(folder: Path) -> list[Path]:
    """The tables and pixels of the committed shards, sorted by name."""
    return sorted(p for p in folder.glob("[0-9]*.*") if SHARD_FILE.fullmatch(p.name) or PIXELS_FILE.fullmatch(p.name))


def select(committed: pd.DataFrame, wanted: Sequence[Pair]) -> pd.DataFrame:
    """Of committed rows (image, key, shard, row) those that are wanted, each once, sorted by image."""
    pairs = pd.DataFrame(list(wanted), columns=["image", "key"], dtype="str")
    live = committed.astype(PLACE).merge(pairs, on=["image", "key"]).drop_duplicates(["image", "key"])
    return live.sort_values("image", ignore_index=True)


def read_rows(folder: Path, live: pd.DataFrame) -> pa.Table | None:
    """The full rows of :func:`live_rows`, in the same order; None when there are none.

    Raises:
        UserError: a shard cannot be read.
    """
    if live.empty:
        return None
    parts = dict(list(live.groupby("shard", sort=True)))
    tables = [read_shard(folder, int(str(shard))).take(pa.array(rows["row"])) for shard, rows in parts.items()]
    table = pa.concat_tables(tables, promote_options="default")  # a newer version's shards may have more columns
    return table.take(pa.array(np.argsort(np.concatenate([rows.index for rows in parts.values()]))))


def read_shard(folder: Path, shard: int) -> pa.Table:
    """The table of one shard. Raises UserError where it cannot be read."""
    return read_arrow(shard_path(folder, shard))


def plan(folder: Path, wanted: Sequence[Pair], rows_per_shard: int, committed: pd.DataFrame) -> list[Chunk]:
    """The shards that must still be made so that every wanted pair has a row. Writes the plan down.

    Args:
        folder: the stage's folder.
        wanted: every pair that is to have a row.
        rows_per_shard: the most rows of a shard.
        committed: the rows that there are: image, key.
    """
    have = set(zip(committed["image"], committed["key"], strict=True))
    missing = [pair for pair in wanted if pair not in have]
    earlier = _read_plan(folder)
    asked = set(wanted)
    there = set(shard_numbers(folder))
    if any(pair not in asked for chunk in earlier for pair in chunk.pairs):
        earlier = []  # the photos or settings changed since; committed shards stay, the rest is cut anew
    chunks = [c for c in earlier if c.shard not in there and not have.issuperset(c.pairs)]  # none is made twice
    planned = {pair for chunk in chunks for pair in chunk.pairs}
    rest = [pair for pair in missing if pair not in planned]
    first = 1 + max([*there, *(chunk.shard for chunk in earlier)], default=-1)
    step = min(rows_per_shard, max(FEWEST_ROWS, -(-len(rest) // SHARES)))
    for i, at in enumerate(range(0, len(rest), step)):
        chunks.append(Chunk(first + i, tuple(rest[at : at + step])))
    if chunks:
        folder.mkdir(parents=True, exist_ok=True)
        everything = [*(c for c in earlier if c not in chunks), *chunks]
        write_json(folder / PLAN, [[c.shard, c.pairs] for c in sorted(everything, key=lambda c: c.shard)])
    return chunks


def _read_plan(folder: Path) -> list[Chunk]:
    try:
        data = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return [Chunk(int(shard), tuple((str(i), str(k)) for i, k in pairs)) for shard, pairs in data]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def finish(folder: Path, live: pd.DataFrame) -> int:
    """After the last chunk: forget the plan and delete shards of which no row is live. Returns their number."""
    used = set(live["shard"])
    dead = [shard for shard in shard_numbers(folder) if shard not in used]
    for shard in dead:
        shard_path(folder, shard).unlink()  # the table first: without it the rest is only leftovers
    (folder / PLAN).unlink(missing_ok=True)
    sweep(folder)
    return len(dead)


def drop_damaged(folder: Path, shape: tuple[int, ...] | None) -> int:
    """Delete the tables of shards that are damaged or whose pixels (``shape`` of one row's, None without any) do not
    fit them, so that they are made anew. Returns how many."""
    damaged = 0
    for shard in shard_numbers(folder):
        path = shard_path(folder, shard)
        try:
            rows = len(read_table(path, ["image", "key", "row"]))
            pixels = None if shape is None else np.load(path.with_suffix(".npy"), mmap_mode="r")
            whole = pixels is None or (pixels.dtype == np.uint8 and pixels.shape == (rows, *(shape or ())))
        except (UserError, OSError, ValueError, EOFError):
            whole = False
        if not whole:
            path.unlink()
            damaged += 1
    sweep(folder)
    return damaged


def sweep(folder: Path) -> None:
    """Remove what an interrupted run left: temporary files, and pixels without their table."""
    for path in folder.glob(".tmp-*"):
        path.unlink(missing_ok=True)
    for path in [*folder.glob("*.npy"), *folder.glob("alpha-*.parquet")]:
        match = BESIDE.fullmatch(path.name)
        if match and not shard_path(folder, int(match.group(1) or match.group(2))).exists():
            path.unlink(missing_ok=True)
