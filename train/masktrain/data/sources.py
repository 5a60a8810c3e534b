"""More caches to train on. Nobody is ever validated on them, and nobody who is held out is trained on through them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError
from maskprep.dataset import View, open_view
from maskprep.labels import same_ids
from masktrain.config.images import DataConfig
from masktrain.data import tasks
from masktrain.data.folds import Split, usable_rows


@dataclass(frozen=True)
class Sources:
    """A view with the images of more caches behind its own.

    Attributes:
        view: the rows of the first cache keep their numbers; the images of others are named ``PATH:image``.
        split: the split, the usable images of the others among those to train on.
        number: source of each of the view's rows, 0 for the first cache, int64 [n].
        weights: how often each source's images come in an epoch.
        record: of every further cache what it is and how many images are used and left out, by reason.
    """

    view: View
    split: Split
    number: NDArray[np.int64]
    weights: tuple[float, ...]
    record: list[dict[str, Any]]


def join(view: View, split: Split, config: DataConfig) -> Sources:
    """Add the caches of ``data.extra`` to the training side of a split.

    An image is left out if its file (by content) or its person (by name, suffixes apart) is held out, or if its file
    is in the eval split of the first cache. Photos that are nearly the same are not looked for across caches.

    Raises:
        UsageError: a cache of other classes or with crops of another size, or a weight that is no number above 0.
        UserError: a cache without an image that may be used.
    """
    number = [np.zeros(len(view), dtype=np.int64)]
    views, train, weights, record = [view], [split.train], [1.0], []
    start = len(view)
    for k, text in enumerate(config.extra, 1):
        path, weight = _parsed(text)
        other = _opened(path, view)
        rows, left_out = _allowed(other, view, split)
        if not len(rows):
            why = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
            raise UserError(f"data.extra: no image of {path} may be trained on ({why or 'it has none'}).")
        views.append(other)
        train.append(start + rows)
        weights.append(weight)
        number.append(np.full(len(other), k, dtype=np.int64))
        start += len(other)
        about = {"cache": str(path.resolve()), "view": other.name, "fingerprint": other.fingerprint()}
        record.append(about | {"weight": weight, "images": len(rows), "left out": left_out})
    if not record:
        return Sources(view, split, number[0], (1.0,), [])
    whole = dataclasses.replace(split, train=np.concatenate(train))
    return Sources(_stacked(views), whole, np.concatenate(number), tuple(weights), record)


def _parsed(text: str) -> tuple[Path, float]:
    path, equals, weight = text.rpartition("=")
    if not equals:
        return Path(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"data.extra: '{weight}' is no weight above 0.", "Write it as PATH=0.5")
    return Path(path), value


def _opened(path: Path, view: View) -> View:
    named = (path / "views" / view.name / "view.json").is_file()
    other = tasks.like(open_view(path, view.name if named else None), view.schema)
    if other.schema != view.schema:
        raise UsageError(
            f"data.extra: {path} tells {', '.join(other.schema.class_names[:4])}, ..., not the classes of {view.path}.",
            "Give both the same schema in maskprep.yaml.",
        )
    if other.size != view.size:
        mine, theirs = ("x".join(map(str, v.size)) for v in (view, other))
        raise UsageError(
            f"data.extra: the crops of {path} are {theirs}, those of {view.path} {mine}.",
            f"Make such a view with: maskprep crop {path} --size {mine} --view {view.name}",
        )
    return other


def _allowed(other: View, view: View, split: Split) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of another cache that may be trained on, and how many are left out for which reason."""
    rows, left_out = usable_rows(other)
    everything = pd.concat([view.table, view.missing], ignore_index=True)
    held = view.table.iloc[split.val]
    people = set(held["person"][held["person"] != held["image"]])
    theirs = set(other.table["person"][other.table["person"] != other.table["image"]])
    alike = {name for group in same_ids(people | theirs) if people & set(group) for name in group} | people
    contents = set(held["content"].dropna()) | set(everything["content"][everything["split"] != "train"].dropna())
    table = other.table.iloc[rows]
    photo = table["content"].isin(contents).to_numpy()
    person = table["person"].isin(alike).to_numpy() & ~photo
    counts = {"held-out photo": int(photo.sum()), "held-out person": int(person.sum())}
    return rows[~(photo | person)], left_out | {k: n for k, n in counts.items() if n}


def _stacked(views: Sequence[View]) -> View:
    """One view with the rows of all, in their order."""
    tables, first = [], 0
    shards: dict[int, NDArray[np.uint8]] = {}
    alphas: dict[int, NDArray[np.uint8]] = {}
    for k, view in enumerate(views):
        table = view.table.copy()
        if k:
            own = table["person"] == table["image"]
            table["image"] = f"{view.path}:" + table["image"]
            table["person"] = table["person"].where(~own, table["image"])
        table["shard"] += first
        tables.append(table)
        shards |= {first + n: pixels for n, pixels in view.shards.items()}
        alphas |= {first + n: pixels for n, pixels in view.alphas.items()}
        first += 1 + max(view.shards, default=0)
    return dataclasses.replace(views[0], table=pd.concat(tables, ignore_index=True), shards=shards, alphas=alphas)
