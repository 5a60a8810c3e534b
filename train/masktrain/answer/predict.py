"""Answers for photos or for a cache: ImageID,ans, and all there is to know about each if asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from maskprep.base import UsageError, UserError, keep_out, keep_whole
from maskprep.dataset import View, open_view
from maskprep.labels import SPLITS
from maskprep.store import Cache, read_table
from masktrain.answer import draw as drawing
from masktrain.answer import footage, listed, predictors, sheet, watch
from masktrain.answer.predictor import Predictor
from masktrain.config.settings import nearest
from masktrain.data import names as tables

INFO = "info.csv"
WITHOUT = ("empty", "likeliest")
BOX = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Predictions:
    """What was written: one row per photo, and what became of those without a crop (by ImageID).

    ``drawn`` is how many annotated pictures were written. Of a video ``rows`` counts frames, and only some of those
    without an answer are listed.
    """

    file: Path
    rows: int
    answered: int
    unanswered: dict[str, str] = field(default_factory=dict)
    drawn: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """The photos that are to be answered for: ImageID and image of each (None: there is none), and where files are.

    With ``others`` the mean over several views counts, of probabilities or logits.
    """

    pictures: View
    rows: list[tuple[str, str | None]]
    path: Callable[[str], Path]
    others: tuple[View, ...] = ()
    mean: str = "probability"


def predict(
    run: Path,
    source: Path,
    out: Path,
    *,
    proba: bool = False,
    details: bool = False,
    draw: Path | None = None,
    without: str = "empty",
    split: str | None = None,
    view: str | Sequence[str] | None = None,
    batch_size: int = 64,
    device: str = "auto",
    tta: str | None = None,
    tta_mean: str = "probability",
    faces: str = "subject",
    frames: int | None = None,
    workers: int | None = None,
    force: bool = False,
) -> Predictions:
    """Write the answers of a run's best model for every photo, or for every frame of a video.

    Raw photos go through the same preprocessing as the crops the model was trained on; so a photo without a face is
    dealt with as there (``choose.no_face``). ImageID is the file name when all photos lie in one folder, otherwise the
    path, or what a list calls it; where the folder has an info.csv, its rows and their order are kept.

    Args:
        run: a run, an ensemble, or an exported ONNX file.
        source: a photo, a folder of photos, a cache; a list of photos (.csv, .txt, or ``-`` for standard input); a
            video file or the number of a camera.
        out: the file to write, .csv, .parquet or .jsonl; the last two hold all details and probabilities. ``-``
            writes JSON lines to standard output; then photos named on standard input are answered one by one, each
            judged by itself.
        proba: add a column ``p_<class>`` for each class.
        details: add each attribute's class and probability, the face box (pixels of the upright photo) and the status.
        draw: folder to write the photos to with box and answer drawn on them; new or empty. For a video, the video
            file to write.
        without: the answer for a photo that has no crop: ``empty``, or ``likeliest``, the most frequent training class.
        split: one of :data:`maskprep.labels.columns.SPLITS`, for a cache; all images by default.
        view: for a cache; by default the one the run was trained on. Of several views, all of the run's size, the mean
            is taken (see ``tta_mean``).
        tta: see :func:`masktrain.answer.predictors.load`, with ``tta_mean``.
        faces: ``subject`` of every frame, or ``all`` faces (for videos, cameras and photos that stream).
        frames: stop a video or a camera after so many.
        force: write over a file ``out`` that is there, whatever it holds.

    Raises:
        UserError: the run or the source cannot be used; or what is to be written would take the place of something
            else, or lie among the photos or in the cache.
    """
    sheet.check(out)
    moving = footage.is_footage(source)
    streamed = moving or (str(source) == listed.STDIN and out == sheet.STDOUT)
    if draw is not None:
        (footage.check_film if moving else drawing.check_folder)(draw)
    for name, value, known in (("without-crop", without, WITHOUT), ("faces", faces, watch.FACES)):
        if value not in known:
            hint = f"Use {' or '.join(nearest(value, known) or known)}."
            raise UsageError(f"--{name} cannot be '{value}'.", hint)
    if not streamed and (faces != "subject" or frames is not None):
        raise UsageError("--faces and --frames are for videos and cameras; a photo has one subject.")
    if not moving and str(source) != listed.STDIN and not source.exists():
        raise UsageError(f"{source} does not exist.")
    cached = (source / "dataset.json").is_file()
    outputs = {"--out": None if out == sheet.STDOUT else out, "--draw": draw}
    _keep_clear(source, cached, outputs)
    if not (cached or moving or source.is_dir() or listed.is_list(source)):
        _keep_beside(outputs, {source.parent, source.resolve().parent})
    if out != sheet.STDOUT:
        keep_whole(out, force)
    if not cached and (split is not None or view is not None):
        raise UsageError(f"{source} is not a cache: --split and --view are for caches.")
    predictor = predictors.load(run, device, tta, tta_mean)
    if streamed:
        return _stream(predictor, source, out, proba or sheet.detailed(out), draw, faces, without, frames)
    with tempfile.TemporaryDirectory(prefix="masktrain-") as folder:
        if cached:
            named: list[str | None] = [view] if isinstance(view, str) else list(view or (None,))
            pictures, *others = [predictors.open_for(predictor, source, v) for v in named]
            root = Path(pictures.dataset.get("source", {}).get("root", ""))
            asked = Asked(pictures, _cache_rows(pictures, split), lambda image: root / image, tuple(others), tta_mean)
        else:
            asked = _photos(source, Path(folder), predictor, workers or os.cpu_count() or 1, outputs)
        everything = sheet.detailed(out)
        return _write(
            predictor, asked, out, proba or everything, details or everything, draw, without == "likeliest", batch_size
        )


def _keep_clear(source: Path, cached: bool, outputs: Mapping[str, Path | None]) -> None:
    """Nothing is written onto what is asked about, among its photos or into its cache."""
    for option, out in outputs.items():
        if out is None:
            continue
        if out.exists() and source.exists() and out.samefile(source):
            raise UsageError(f"{out} is what is asked about.", f"Name another place with {option}.")
        if cached:
            keep_out(out, source, "tables", option)
            Cache(source).clear_of_photos(out, option)
        elif source.is_dir():
            keep_out(out, source, option=option)


def _keep_beside(outputs: Mapping[str, Path | None], folders: Iterable[Path]) -> None:
    """No table is written into a folder with photos that were named, and no picture there or below."""
    for folder in folders:
        for option, out in outputs.items():
            if out is not None and (option == "--draw" or out.resolve().parent == folder.resolve()):
                keep_out(out, folder, option=option)


def _stream(
    predictor: Predictor,
    source: Path,
    out: Path,
    proba: bool,
    draw: Path | None,
    faces: str,
    without: str,
    frames: int | None,
) -> Predictions:
    """Pictures one after another, however many there are."""
    likeliest = without == "likeliest"
    if footage.is_footage(source):
        done = watch.footage(
            predictor, source, out, proba=proba, draw=draw, faces=faces, likeliest=likeliest, frames=frames
        )
    else:
        if draw is not None or frames is not None:
            raise UsageError("--draw and --frames have no meaning for photos that stream from standard input.")
        done = watch.named(predictor, watch.standard_input(), out, proba=proba, faces=faces, likeliest=likeliest)
    return Predictions(out, done.pictures, done.answered, done.unanswered, done.drawn, tuple(done.warnings))


def _photos(
    source: Path, folder: Path, predictor: Predictor, workers: int, outputs: Mapping[str, Path | None]
) -> Asked:
    """Raw photos, prepared in a temporary cache with the settings that the run has kept."""
    from maskprep.pipeline import prepare

    photos, rows = source, None
    paths: dict[str, Path] = {}
    if listed.is_list(source):
        found = listed.gather(source, folder / "photos")
        photos, rows, paths = found.folder, found.rows, found.paths
        _keep_beside(outputs, found.folders)
        if not paths:
            raise UserError(f"None of the {len(rows)} photos that were named exists, for example {rows[0][0]}.")
    elif source.is_file():
        photos = folder / "photo"
        photos.mkdir()
        shutil.copy2(source, photos)
        paths = {source.name: source}
    manual = predictor.manual
    for wanted in manual.inputs:
        prepare(photos, folder / "cache", manual.settings, wanted.view, workers, matted=wanted.matted)
    pictures = open_view(folder / "cache", manual.view)
    return Asked(
        pictures,
        _photo_rows(pictures, source) if rows is None else rows,
        lambda image: paths.get(image, photos / image),
    )


def _cache_rows(pictures: View, split: str | None) -> list[tuple[str, str | None]]:
    """ImageID and image of every image of a cache, or of one split."""
    images = [(i, s) for t in (pictures.table, pictures.missing) for i, s in zip(t["image"], t["split"], strict=True)]
    if split is not None:
        if split not in SPLITS:
            raise UsageError(f"There is no split '{split}'.", f"Choose one of {', '.join(SPLITS)}.")
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
    predictor: Predictor,
    asked: Asked,
    out: Path,
    proba: bool,
    details: bool,
    draw: Path | None,
    likeliest: bool,
    batch_size: int,
) -> Predictions:
    """Predict the images that have a crop and write all rows."""
    pictures, rows, schema = asked.pictures, asked.rows, predictor.schema
    if not rows:
        raise UserError(f"There are no photos to predict in {pictures.path}.")
    place = {image: i for i, image in enumerate(pictures.table["image"])}
    status = {
        image: said
        for table in (pictures.table, pictures.missing)
        for image, said in zip(table["image"], table["status"], strict=True)
    }
    wanted = np.array(sorted({place[i] for _, i in rows if i in place}), dtype=np.int64)
    probabilities = predictors.over_views(predictor, (pictures, *asked.others), wanted, batch_size, asked.mean)
    told = predictor.decide(probabilities)
    number = {row: n for n, row in enumerate(wanted.tolist())}
    boxes = read_boxes(pictures.path) if details or draw is not None else {}
    unanswered = {
        name: "missing" if image is None else _why(status.get(image)) for name, image in rows if image not in place
    }
    show_status = details or bool(unanswered)
    columns = {"ImageID": str, **sheet.answer_columns(schema, proba, details)}
    columns |= dict.fromkeys(BOX, float) if details else {}
    columns |= {"status": str} if show_status else {}

    def line(name: str, image: str | None) -> dict[str, Any]:
        row: dict[str, Any] = {"ImageID": name, "status": unanswered.get(name) or status.get(str(image)) or "ok"}
        if not details and name not in unanswered:
            row["status"] = "ok"
        row |= dict(zip(BOX, boxes.get(str(image)) or (), strict=False))
        if image in place:
            n = number[place[image]]
            return row | sheet.answered(schema, int(told[n]), probabilities[n])
        return row | ({"ans": predictor.manual.fallback} if likeliest else {})

    drawn = 0
    with sheet.Sheet(out, columns) as written:
        for name, image in rows:
            written.add([line(name, image)])
        if draw is not None:
            for file, image in _drawings(rows, draw):
                n = number[place[image]] if image in place else None
                box = boxes.get(image)
                if n is None:
                    mark = drawing.Mark(box, (f"no answer: {_why(status.get(image))}",), drawing.FAINT)
                else:
                    mark = drawing.mark_of(schema, int(told[n]), probabilities[n], box)
                drawn += _draw(asked.path(image), mark, file)
    return Predictions(out, len(rows), len(rows) - sum(i not in place for _, i in rows), unanswered, drawn)


def read_boxes(cache: Path) -> dict[str, drawing.Box]:
    """The subject's box of every image that has one: x0, y0, x1, y1 in pixels of the upright photo."""
    table = read_table(cache / "subjects.parquet") if (cache / "subjects.parquet").is_file() else pd.DataFrame()
    if not {"image", *BOX} <= set(table):
        return {}
    table = table.dropna(subset=list(BOX))
    return {image: box for image, *box in table[["image", *BOX]].itertuples(index=False)}  # type: ignore[misc]


def _drawings(rows: list[tuple[str, str | None]], folder: Path) -> Iterator[tuple[Path, str]]:
    """File to draw to and image of each photo; names keep their suffix, so that a.png and a.jpg stay apart."""
    taken: set[str] = set()
    for name, image in rows:
        if image is None:
            continue
        parts = [p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..", ".")]
        file = "/".join(parts) or image
        if file not in taken:
            taken.add(file)
            yield folder / f"{file}.jpg", image


def _draw(photo: Path, mark: drawing.Mark, file: Path) -> bool:
    """Draw on one photo; False for one that cannot be opened, whose row says so."""
    from maskprep.photos import PhotoError, load

    try:
        pixels = load(photo)
    except PhotoError:
        return False
    drawing.save(drawing.annotate(pixels, [mark]), file)
    return True


def _why(status: str | None) -> str:
    """Why an image has no crop; a status that would let it have one means that it is not there yet."""
    return status if status and status not in ("ok", "given", "rescued", "decided") else "no_crop"
