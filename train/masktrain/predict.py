"""Answers for photos or for a cache, as ImageID,ans."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from maskprep.dataset import View, open_view
from maskprep.errors import UsageError, UserError
from maskprep.store.tables import write_atomic
from masktrain import answers as tables
from masktrain import predictors

INFO = "info.csv"


@dataclass(frozen=True)
class Predictions:
    """What was written: one row per photo, and what became of those without an answer (by ImageID)."""

    file: Path
    rows: int
    unanswered: dict[str, str] = field(default_factory=dict)


def predict(
    run: Path,
    source: Path,
    out: Path,
    *,
    proba: bool = False,
    split: str | None = None,
    view: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    tta: str | None = None,
    workers: int | None = None,
) -> Predictions:
    """Write the answers of a run's best model for every photo.

    Raw photos go through the same preprocessing as the crops the model was trained on. ImageID is the file name when
    all photos lie in one folder, otherwise the path; where the folder has an info.csv, its rows and their order are
    kept. A photo without a crop gets an empty answer, and the table a column ``status``.

    Args:
        source: a photo, a folder of photos or a cache.
        out: the CSV file to write.
        proba: add a column ``p_<class>`` for each class.
        split: ``train`` or ``eval``, for a cache; all images by default.
        view: for a cache; by default the one the run was trained on.
        tta: ``mirror`` or ``none``; by default as the run was validated.

    Raises:
        UserError: the run or the source cannot be used.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Name the CSV file to write with --out.")
    if not source.exists():
        raise UsageError(f"{source} does not exist.")
    predictor = predictors.load(run, device, tta)
    if (source / "dataset.json").is_file():
        pictures = predictors.open_for(predictor, source, view)
        return _write(predictor, pictures, out, _cache_rows(pictures, split), proba, batch_size)
    if split is not None or view is not None:
        raise UsageError(f"{source} is not a cache: --split and --view are for caches.")
    with tempfile.TemporaryDirectory(prefix="masktrain-") as folder:
        pictures = _prepare(source, Path(folder), predictor, workers or os.cpu_count() or 1)
        return _write(predictor, pictures, out, _photo_rows(pictures, source), proba, batch_size)


def _prepare(source: Path, folder: Path, predictor: predictors.Predictor, workers: int) -> View:
    """A temporary cache of raw photos, made with the settings that the run has kept."""
    from maskprep import pipeline

    photos = source
    if source.is_file():
        photos = folder / "photo"
        photos.mkdir()
        shutil.copy2(source, photos)
    manual = predictor.manual
    for wanted in manual.inputs:
        pipeline.prepare(photos, folder / "cache", manual.settings, wanted.view, workers, matted=wanted.matted)
    return open_view(folder / "cache", manual.view)


def _cache_rows(pictures: View, split: str | None) -> list[tuple[str, str | None]]:
    """ImageID and image of every image of a cache, or of one split."""
    images = [(i, s) for t in (pictures.table, pictures.missing) for i, s in zip(t["image"], t["split"], strict=True)]
    if split is not None:
        if split not in ("train", "eval"):
            raise UsageError(f"There is no split '{split}'.", "Choose train or eval.")
        images = [(i, s) for i, s in images if s == split]
    return _named(sorted(i for i, _ in images))


def _photo_rows(pictures: View, source: Path) -> list[tuple[str, str | None]]:
    """ImageID and image (None when there is no such photo) for raw photos, by their info.csv if they have one."""
    images = sorted([*pictures.table["image"], *pictures.missing["image"]])
    if not (source / INFO).is_file():
        return _named(images)
    table = tables.read_csv(source / INFO)
    names = tables.Names(images)
    rows: list[tuple[str, str | None]] = []
    for name in table[tables.name_column(table, source / INFO)]:
        found = names.find(name)
        if len(found) > 1:
            raise UserError(f"{source / INFO}: several photos are called {name}: {tables.listed(found)}.")
        rows.append((name, found[0] if found else None))
    return rows


def _named(images: list[str]) -> list[tuple[str, str | None]]:
    """File names when all images lie in one folder, otherwise paths."""
    flat = len({str(PurePosixPath(i).parent) for i in images}) <= 1
    return [(PurePosixPath(i).name if flat else i, i) for i in images]


def _write(
    predictor: predictors.Predictor,
    pictures: View,
    out: Path,
    rows: list[tuple[str, str | None]],
    proba: bool,
    batch_size: int,
) -> Predictions:
    """Predict the images that have a crop and write all rows."""
    if not rows:
        raise UserError(f"There are no photos to predict in {pictures.path}.")
    place = {image: i for i, image in enumerate(pictures.table["image"])}
    status = dict(zip(pictures.missing["image"], pictures.missing["status"], strict=True))
    wanted = np.array(sorted({place[i] for _, i in rows if i in place}), dtype=np.int64)
    probabilities = dict(zip(wanted.tolist(), predictor(pictures, wanted, batch_size), strict=True))
    unanswered = {
        name: "missing" if image is None else _why(status.get(image)) for name, image in rows if image not in place
    }
    header = ["ImageID", "ans"] + [f"p_{c}" for c in predictor.manual.classes] * proba + ["status"] * bool(unanswered)

    def line(name: str, image: str | None) -> list[str]:
        p: NDArray[np.float32] | None = probabilities.get(place[image]) if image in place else None
        values = [name, "" if p is None else str(int(predictor.decide(p[None])[0]))]
        if proba:
            values += [""] * len(predictor.manual.classes) if p is None else [f"{x:.6g}" for x in p]
        return values + [unanswered.get(name, "ok")] * bool(unanswered)

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *(line(*row) for row in rows)])
    write_atomic(out, text.getvalue().encode())
    return Predictions(out, len(rows), unanswered)


def _why(status: str | None) -> str:
    """Why an image has no crop; a status that would let it have one means that it is not there yet."""
    return status if status and status not in ("ok", "rescued", "decided") else "no_crop"
