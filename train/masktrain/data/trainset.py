"""What a fit is taught: the training images of one cache or several, with one matrix of truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, counted
from maskprep.dataset import View, open_view
from maskprep.labels import same_ids
from masktrain.config.config import FitConfig
from masktrain.config.images import DataConfig
from masktrain.data import folds, labels, tasks
from masktrain.data.folds import Split, usable_rows


@dataclass(frozen=True)
class TrainSet:
    """The split of a view, and what is learnt from its training part.

    Attributes:
        view: the crops; the images of further caches come behind those of the first one, named ``PATH:image``. Labels
            are those of the schema.
        split: rows to train and to validate on, less what is not trained on.
        truth: shares of the joint classes of each training image, float32 [n, C]: labels, shared labels, relabelled
            ones and answers of a teacher are all rows of it.
        labels: the likeliest class of each training image before a teacher had a say, int64 [n].
        limits: attribute -> limits of its classes in training, where they are not the schema's.
        source: number of the cache each training image comes from, 0 for the first, int64 [n]; ``weights``: how often
            the images of each come in an epoch.
        record: what was changed in labels, ``extra`` what comes from further caches; both are kept with the run.
    """

    view: View
    split: Split
    truth: NDArray[np.float32]
    labels: NDArray[np.int64]
    limits: Mapping[str, Sequence[float]]
    source: NDArray[np.int64]
    weights: tuple[float, ...]
    record: dict[str, Any]
    extra: list[dict[str, Any]]

    @classmethod
    def open(cls, view: View, config: FitConfig) -> TrainSet:
        """The training set that the settings ask for.

        Raises:
            UserError: settings that cannot be met.
        """
        if view.schema.num_classes < 2:
            raise UserError(
                f"{view.path} has {counted(view.schema.num_classes, 'class', 'classes')}; at least two are needed."
            )
        data = config.data
        split = folds.split(view, data.val_ratio, data.split_seed, fold=data.fold, file=data.folds_file)
        joined, split, number, weights, extra = _joined(view, split, data)
        where = tasks.parse(data.where, tasks.whole(view)[1])
        if where is not None and where.attribute in view.schema.joint and len(where.classes) == 1:
            others = ",".join(name for name in tasks.whole(view)[1].joint if name != where.attribute)
            raise UsageError(
                f"With data.where={where} all images have one class of {where.attribute}, which is to be learnt.",
                f"Learn other attributes: --task {others}",
            )
        rows = tasks.rows_where(joined, split.train, where)
        if where is not None:
            gone = {f"not {where}, in training only": len(split.train) - len(rows)}
            split = dataclasses.replace(split, train=rows, left_out={**split.left_out, **gone})
        split, truth, record, bands = labels.truths(joined, split, data)
        own = truth.argmax(1)
        if data.teacher:
            truth, record = _taught(joined, split.train, truth, record, data)
        return cls(joined, split, truth, own, bands.bins, number[split.train], weights, record, extra)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def people(self) -> NDArray[np.int64]:
        """Number of each training image's person, int64 [n]."""
        names = self.view.table["person"].iloc[self.split.train].astype(str)
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float32] | None:
        """Numbers of some attributes of each training image, float32 [n, names], NaN where one is not known."""
        return labels.numbers_of(self.view, self.split.train, names)


def open_view_of(cache: Path, config: FitConfig, view: str | None = None) -> View:
    """The view of a cache that the settings name (or another one), asking for the attributes that they name.

    Raises:
        UserError: there is none; or there is no such attribute.
    """
    return tasks.of(open_view(cache, view or config.data.view), config.data.task)


def _taught(
    view: View, rows: NDArray[np.int64], truth: NDArray[np.float32], record: dict[str, Any], data: DataConfig
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Shares that are partly the out-of-fold answers of a trained run or ensemble (distillation, arXiv 1503.02531).

    Raises:
        UsageError: the teacher has no out-of-fold answers, or classifies something else.
    """
    file = Path(data.teacher) / "oof.parquet"
    try:
        answers = pd.read_parquet(file).set_index("image").filter(regex=r"^p_\d+$")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"data.teacher: {file} cannot be read: {str(error).splitlines()[0]}.",
            "Give a run of all folds, or an ensemble of such runs.",
        ) from error
    if answers.shape[1] != truth.shape[1]:
        raise UsageError(f"data.teacher: {file} has {answers.shape[1]} classes, the view {truth.shape[1]}.")
    given = answers.reindex(view.table["image"].iloc[rows]).to_numpy(dtype=np.float32)
    known = np.isfinite(given).all(1)
    if not known.any():
        raise UsageError(f"data.teacher: {file} has no answer for a training image.")
    mixed = (1 - data.teacher_share) * truth + data.teacher_share * given
    taught = {"teacher": str(data.teacher), "taught": int(known.sum())}
    return np.where(known[:, None], mixed, truth).astype(np.float32), {**record, **taught}


def _joined(
    view: View, split: Split, config: DataConfig
) -> tuple[View, Split, NDArray[np.int64], tuple[float, ...], list[dict[str, Any]]]:
    """Add the caches of ``data.extra`` to the training side of a split.

    An image is left out if its file (by content) or its person (by name, suffixes apart) is held out, or if its file
    is in the eval split of the first cache. Photos that are nearly the same are not looked for across caches.

    Returns:
        A view with the rows of all; the split; source of each row, int64; how often each source's images come in an
        epoch; of every further cache what it is and how many images are used and left out, by reason.

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
        wanted = tasks.parse(config.extra_where, tasks.whole(other)[1], "data.extra_where")
        if wanted is not None and len(rows):
            chosen = tasks.rows_where(other, rows, wanted, "data.extra_where")
            rows, left_out = chosen, left_out | {f"not {wanted}": len(rows) - len(chosen)}
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
        return view, split, number[0], (1.0,), []
    whole = dataclasses.replace(split, train=np.concatenate(train))
    return _stacked(views), whole, np.concatenate(number), tuple(weights), record


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
            f"data.extra: {path} has the classes "
            f"{', '.join(other.schema.class_names[:4])}, ..., not the classes of {view.path}.",
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
