"""Mean and standard deviation of crops, in float64 from exact integer sums; no pixel is read.

The published baseline of the mask task squares 0..255 values but subtracts the square of a mean that was already
divided by 255, which more than doubles the standard deviation; exact sums leave no room for that.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from maskprep.base import write_json
from maskprep.crops.crop import CHANNELS
from maskprep.store import DESCRIPTION, INDEX, Cache, Recipe, Report, Tables, TableStage, read_table

SPLITS = ("train", "eval")
"""Those of which there is always an entry; others have one where there are such photos."""
ALL = "all"


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation of R, G, B, 0..1, of so many crops with so many pixels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    images: int
    pixels: int


def moments(rows: pd.DataFrame, prefix: str = "") -> Moments | None:
    """Statistics of the crops in ``rows``, the columns of a view's shards; None when there are no pixels. Sums are
    added as Python integers: exact to the last bit of a float64, in any order."""
    present = rows[rows[f"{prefix}count"].notna()]
    pixels = sum(int(v) for v in present[f"{prefix}count"])
    if pixels == 0:
        return None
    totals, squares = ([sum(map(int, present[f"{prefix}{kind}_{c}"])) for c in CHANNELS] for kind in ("sum", "sumsq"))
    r, g, b = (
        (total / pixels / 255, math.sqrt(square * pixels - total * total) / pixels / 255)
        for total, square in zip(totals, squares, strict=True)
    )
    return Moments((r[0], g[0], b[0]), (r[1], g[1], b[1]), len(present), pixels)


def by_split(rows: pd.DataFrame, split: pd.Series[Any]) -> dict[str, Any]:
    """One view's entry of stats.json of its rows and the split of each: split -> whole and foreground -> moments."""
    entry: dict[str, Any] = {}
    others = sorted({*split.dropna()} - {*SPLITS})
    for name in (*SPLITS, *others, ALL):
        chosen = rows if name == ALL else rows[(split == name).to_numpy()]
        parts = {"whole": moments(chosen), "foreground": moments(chosen, "fg_")}
        entry[name] = {part: made and asdict(made) for part, made in parts.items()}
    return entry


@dataclass(frozen=True)
class Stats(TableStage):
    """stats.json: mean and standard deviation of every view, whole crops and foreground, per split."""

    views: tuple[str, ...]
    name: ClassVar[str] = "stats"
    file: ClassVar[str] = "stats.json"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("images", *(f"{kind}:{view}" for view in self.views for kind in ("crop", "matte")))

    @property
    def recipe(self) -> Recipe:
        return Recipe(1)

    def _record(self, cache: Cache) -> Path:
        """A JSON file has no room for what it was made from: it lies beside the stages."""
        return cache.rows(self.name) / f".{DESCRIPTION}"

    def recorded(self, tables: Tables) -> str:
        try:
            record = json.loads(self._record(tables.cache).read_text(encoding="utf-8"))
            whole = record["bytes"] == self.path(tables.cache).stat().st_size
            return str(record["made_from"]) if whole else ""
        except (OSError, ValueError, TypeError, KeyError):
            return ""

    def mark(self, tables: Tables) -> str:
        return self.recorded(tables)

    def refresh(self, tables: Tables, report: Report) -> None:
        made_from = self.made_from(tables)
        if self.recorded(tables) == made_from:
            return
        split = tables.table("images").set_index("image")["split"]
        result = {}
        for view in self.views:
            if (tables.cache.view(view) / INDEX).is_file():
                rows = view_rows(tables, view)
                result[view] = by_split(rows, rows["image"].map(split))
        path, record = self.path(tables.cache), self._record(tables.cache)
        write_json(path, result)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"made_from": made_from, "bytes": path.stat().st_size})
        report.computed[self.name] += len(result)

    def build(self, tables: Tables, report: Report) -> pa.Table:
        raise NotImplementedError  # it is no Parquet table


def view_rows(tables: Tables, view: str) -> pd.DataFrame:
    """The live rows of a view with the sums of its crops and, where there are mattes, of their foreground."""
    made = tables.rows(f"crop:{view}")
    sums = ["image", *(f"{kind}_{c}" for kind in ("sum", "sumsq") for c in CHANNELS), "count"]
    rows = pd.DataFrame({name: [] for name in sums}) if made is None else pd.DataFrame(made.select(sums).to_pandas())
    path = tables.cache.view(view) / "mattes.parquet"
    names = ["image", *(f"fg_{name}" for name in sums[1:])]
    if path.is_file():
        return rows.merge(read_table(path, names), on="image", how="left")
    return rows.assign(**dict.fromkeys(names[1:], None))
