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
import pyarrow.parquet as pq

from maskprep.base.files import write_json
from maskprep.errors import UserError
from maskprep.store.tables import read_table

SHARD_FILE = re.compile(r"(\d{5,})\.parquet")
BESIDE = re.compile(r"(\d{5,})\.npy|alpha-(\d{5,})\.(?:npy|parquet)")
"""What lies beside a shard's table: its pixels, and what is made from them later (mattes)."""

PLAN = "plan.json"
SHARES, FEWEST_ROWS = 16, 8
"""Missing rows are cut into about this many shards, each of at least so many rows, so that the workers end together."""

Pair = tuple[str, str]
"""(image, key)."""


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
    frames = []
    for shard in shard_numbers(folder):
        frame = read_table(shard_path(folder, shard), ["image", "key"])
        frames.append(frame.assign(shard=shard, row=range(len(frame))))
    if not frames:
        kinds = {"image": "str", "key": "str", "shard": "int64", "row": "int64"}
        return pd.DataFrame({name: pd.Series([], dtype=kind) for name, kind in kinds.items()})
    return pd.concat(frames, ignore_index=True)


def live_rows(folder: Path, wanted: Sequence[Pair]) -> pd.DataFrame:
    """The committed rows that are wanted, each once, sorted by image: image, key, shard, row."""
    index = read_index(folder)
    pairs = pd.DataFrame(list(wanted), columns=["image", "key"], dtype="str")
    live = index.merge(pairs, on=["image", "key"]).drop_duplicates(["image", "key"])
    return live.sort_values("image", ignore_index=True)


def read_rows(folder: Path, live: pd.DataFrame) -> pa.Table | None:
    """The full rows of :func:`live_rows`, in the same order; None when there are none.

    Raises:
        UserError: a shard cannot be read.
    """
    if live.empty:
        return None
    parts: list[pa.Table] = []
    order: list[int] = []
    for shard, rows in live.groupby("shard", sort=True):
        path = shard_path(folder, int(str(shard)))
        try:
            parts.append(pq.read_table(path).take(pa.array(rows["row"])))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"'{path}' is damaged: {error}.", "Delete it and run the command again.") from error
        order.extend(int(i) for i in rows.index)
    table = pa.concat_tables(parts, promote_options="default")  # a newer version's shards may have more columns
    return table.take(pa.array(np.argsort(np.asarray(order))))


def plan(folder: Path, wanted: Sequence[Pair], rows_per_shard: int) -> list[Chunk]:
    """The shards that must still be made so that every wanted pair has a row. Writes the plan down.

    Args:
        folder: the stage's folder.
        wanted: every pair that is to have a row.
        rows_per_shard: the most rows of a shard.
    """
    have = set(zip(*(read_index(folder)[c] for c in ("image", "key")), strict=True))
    missing = [pair for pair in wanted if pair not in have]
    earlier = _read_plan(folder)
    asked = set(wanted)
    committed = set(shard_numbers(folder))
    if any(pair not in asked for chunk in earlier for pair in chunk.pairs):
        earlier = []  # the photos or settings changed since; committed shards stay, the rest is cut anew
    chunks = [c for c in earlier if c.shard not in committed and not have.issuperset(c.pairs)]  # none is made twice
    planned = {pair for chunk in chunks for pair in chunk.pairs}
    rest = [pair for pair in missing if pair not in planned]
    first = 1 + max([*committed, *(chunk.shard for chunk in earlier)], default=-1)
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


def finish(folder: Path, wanted: Sequence[Pair]) -> int:
    """After the last chunk: forget the plan and delete shards of which no row is wanted. Returns their number."""
    live = set(live_rows(folder, wanted)["shard"])
    dead = [shard for shard in shard_numbers(folder) if shard not in live]
    for shard in dead:
        shard_path(folder, shard).unlink()  # the table first: without it the rest is only leftovers
    (folder / PLAN).unlink(missing_ok=True)
    sweep(folder)
    return len(dead)


def drop_damaged(folder: Path, shape: tuple[int, ...]) -> int:
    """Delete the tables of shards whose pixels are missing or cut short, so that they are made anew.

    Args:
        folder: the stage's folder.
        shape: of one row's pixels.

    Returns:
        How many shards.
    """
    damaged = 0
    for shard in shard_numbers(folder):
        path = shard_path(folder, shard)
        try:
            rows = pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowInvalid):
            continue  # read_index names it
        try:
            whole = np.load(path.with_suffix(".npy"), mmap_mode="r").shape == (rows, *shape)
        except (OSError, ValueError, EOFError):
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
