"""Answers for photos, lists of photos, or a cache: ImageID,ans, and all there is to know about each if asked for."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, keep_out, keep_whole
from maskprep.dataset import View, open_view
from maskprep.labels import SPLITS
from maskprep.photos import SUFFIXES, PhotoError, load
from maskprep.store import Cache, read_table
from masktrain.answer import draw as drawing
from masktrain.answer import live, model, video
from masktrain.answer.model import Model, Rows
from masktrain.answer.table import BOX, STDOUT, TableWriter, answer_columns, answer_row, check_table, detailed
from masktrain.config.settings import nearest
from masktrain.data import names as tables

INFO = "info.csv"
STDIN = "-"
LIST_SUFFIXES = (".csv", ".txt")
WITHOUT = ("empty", "likeliest")


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
class Request:
    """The photos that are to be answered for.

    Args:
        views: their crops; of several views the mean counts, of probabilities or logits (``mean``).
        rows: ImageID and image of each (None: there is none).
        path: where the file of an image is.
    """

    views: tuple[View, ...]
    rows: list[tuple[str, str | None]]
    path: Callable[[str], Path]
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
        tta: see :func:`masktrain.answer.model.load`, with ``tta_mean``.
        faces: ``subject`` of every frame, or ``all`` faces (for videos, cameras and photos that stream).
        frames: stop a video or a camera after so many.
        force: write over a file ``out`` that is there, whatever it holds.

    Raises:
        UserError: the run or the source cannot be used; or what is to be written would take the place of something
            else, or lie among the photos or in the cache.
    """
    check_table(out)
    moving = video.is_video(source)
    streamed = moving or (str(source) == STDIN and out == STDOUT)
    if draw is not None:
        (video.check_video if moving else drawing.check_folder)(draw)
    for name, value, known in (("without-crop", without, WITHOUT), ("faces", faces, video.FACES)):
        if value not in known:
            hint = f"Use {' or '.join(nearest(value, known) or known)}."
            raise UsageError(f"--{name} cannot be '{value}'.", hint)
    if not streamed and (faces != "subject" or frames is not None):
        raise UsageError("--faces and --frames are for videos and cameras; a photo has one subject.")
    if streamed and not moving and (draw is not None or frames is not None):
        raise UsageError("--draw and --frames have no meaning for photos that stream from standard input.")
    if not moving and str(source) != STDIN and not source.exists():
        raise UsageError(f"{source} does not exist.")
    cached = (source / "dataset.json").is_file()
    outputs = {"--out": None if out == STDOUT else out, "--draw": draw}
    _keep_clear(source, cached, outputs)
    if out != STDOUT:
        keep_whole(out, force)
    if not cached and (split is not None or view is not None):
        raise UsageError(f"{source} is not a cache: --split and --view are for caches.")
    trained = model.load(run, device, tta, tta_mean)
    everything, likeliest = detailed(out), without == "likeliest"
    if streamed:
        with live.open_finder(trained.spec) as finder:
            done = video.Stream(trained, finder, faces == "all", likeliest)
            if moving:
                video.answer_video(done, source, out, proba=proba or everything, draw=draw, frames=frames)
            else:
                video.answer_names(done, out, proba=proba or everything)
        return Predictions(out, done.pictures, done.answered, done.unanswered, done.drawn, tuple(done.warnings))
    with tempfile.TemporaryDirectory(prefix="masktrain-") as folder:
        if cached:
            named: list[str | None] = [view] if isinstance(view, str) else list(view or (None,))
            views = tuple(model.open_for(trained, source, v) for v in named)
            root = Path(views[0].dataset.get("source", {}).get("root", ""))
            asked = Request(views, _cache_rows(views[0], split), lambda image: root / image, tta_mean)
        else:
            asked = _photos(source, Path(folder), trained, workers or os.cpu_count() or 1, outputs)
        return _write(trained, asked, out, proba or everything, details or everything, draw, likeliest, batch_size)


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


def is_list(source: Path) -> bool:
    """Whether a source names photos instead of being one."""
    return str(source) == STDIN or (source.suffix.lower() in LIST_SUFFIXES and source.is_file())


def read_list(source: Path) -> tuple[list[str], Path]:
    """The photos that a list names, and the folder to which their paths are relative.

    Args:
        source: ``-`` for standard input or a text file, one path a line; or a CSV with a column ImageID, image or file.
            Paths in a file are relative to it, those on standard input to where the command runs.

    Raises:
        UserError: an empty list, or a table without such a column.
    """
    stdin = str(source) == STDIN
    if stdin:
        names = [line.rstrip("\r\n") for line in sys.stdin]
    elif source.suffix.lower() == ".csv":
        table = tables.read_csv(source)
        names = table[tables.name_column(table, source)].tolist()
    else:
        try:
            names = source.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source} cannot be read: {error}") from error
    if not (names := [name for name in names if name.strip()]):
        raise UserError(f"{'Standard input' if stdin else source} names no photos.")
    return names, Path() if stdin else source.parent


def link(names: Iterable[str], base: Path, folder: Path) -> tuple[list[tuple[str, str | None]], dict[str, Path]]:
    """Link photos into a folder that the preprocessing can read, by number: equal names stay apart.

    Returns:
        For each name its link (None where there is no such photo), and for each link the photo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str | None]] = []
    links: dict[Path, str] = {}
    for name in names:
        real = (base / name.strip()).resolve()
        if not real.is_file():
            rows.append((name, None))
            continue
        if real not in links:
            # what a file holds decides, not what it is called: any other suffix would be passed over
            suffix = real.suffix.lower() if real.suffix.lower() in SUFFIXES else ".jpg"
            links[real] = f"{len(links):08d}{suffix}"
            try:
                (folder / links[real]).symlink_to(real)
            except (OSError, NotImplementedError):  # file systems and users without links
                shutil.copy2(real, folder / links[real])
        rows.append((name, links[real]))
    return rows, {image: real for real, image in links.items()}


def _photos(source: Path, folder: Path, trained: Model, workers: int, outputs: Mapping[str, Path | None]) -> Request:
    """Raw photos, prepared in a temporary cache with the settings that the run has kept."""
    from maskprep.pipeline import prepare

    photos, rows = source, None
    paths: dict[str, Path] = {}
    if not source.is_dir():
        photos = folder / "photos"
        names, base = read_list(source) if is_list(source) else ([source.name], source.parent)
        rows, paths = link(names, base, photos)
        if not paths:
            raise UserError(f"None of the {len(rows)} photos that were named exists, for example {rows[0][0]}.")
        given = {(base / name.strip()).parent.resolve() for name, image in rows if image is not None}
        _keep_beside(outputs, given | {real.parent for real in paths.values()})
    spec = trained.spec
    for wanted in spec.inputs:
        prepare(photos, folder / "cache", spec.settings, wanted.view, workers, matted=wanted.matted)
    pictures = open_view(folder / "cache", spec.view)
    rows = _photo_rows(pictures, source) if rows is None else rows
    return Request((pictures,), rows, lambda image: paths.get(image, photos / image))


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


def over_views(
    trained: Model, views: Sequence[View], rows: Rows, batch_size: int, mean: str = "probability"
) -> NDArray[np.float32]:
    """Mean of the probabilities float32 [n, C] over several views of one cache, for rows of the first one's table.

    Args:
        mean: of the ``probability``, or of its ``logit``.

    Raises:
        UserError: a view lacks some of the images, or has crops of another size than the model takes.
    """
    first = views[0]
    found = [trained(v, rows if v is first else model.same_images(first, rows, v), batch_size) for v in views]
    if len(found) == 1:
        return found[0]
    if mean == "probability":
        return np.asarray(np.mean(found, axis=0), np.float32)
    logits = np.mean([np.log(np.maximum(t, 1e-12)) for t in found], axis=0)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)


def _write(
    trained: Model,
    asked: Request,
    out: Path,
    proba: bool,
    details: bool,
    draw: Path | None,
    likeliest: bool,
    batch_size: int,
) -> Predictions:
    """Predict the images that have a crop and write all rows."""
    pictures, rows, schema = asked.views[0], asked.rows, trained.schema
    if not rows:
        raise UserError(f"There are no photos to predict in {pictures.path}.")
    crops, everything = pictures.table, pd.concat([pictures.table, pictures.missing])
    status = dict(zip(everything["image"], everything["status"], strict=True))
    named = {image for _, image in rows}
    wanted = np.flatnonzero(crops["image"].isin(named))
    probabilities = over_views(trained, asked.views, wanted, batch_size, asked.mean)
    found = zip(trained.decide(probabilities).tolist(), probabilities, strict=True)
    answers: dict[str | None, tuple[int, NDArray[np.float32]]] = {}
    answers |= zip(crops["image"].iloc[wanted], found, strict=True)
    boxes = read_boxes(pictures.path) if details or draw is not None else {}
    unanswered = {n: "missing" if i is None else _why(status.get(i)) for n, i in rows if i not in answers}
    columns = {"ImageID": str, **answer_columns(schema, proba, details)}
    columns |= dict.fromkeys(BOX, float) if details else {}
    columns |= {"status": str} if details or unanswered else {}

    def line(name: str, image: str | None) -> dict[str, Any]:
        said = (details and status.get(str(image))) or "ok"
        row: dict[str, Any] = {"ImageID": name, "status": unanswered.get(name, said)}
        row |= dict(zip(BOX, boxes.get(str(image)) or (), strict=False))
        if image in answers:
            return row | answer_row(schema, *answers[image])
        return row | ({"ans": trained.spec.fallback} if likeliest else {})

    drawn = 0
    with TableWriter(out, columns) as written:
        for name, image in rows:
            written.add([line(name, image)])
        for file, image in _drawings(rows, draw) if draw is not None else ():
            if image in answers:
                mark = drawing.mark_of(schema, *answers[image], boxes.get(image))
            else:
                mark = drawing.Mark(boxes.get(image), (f"no answer: {_why(status.get(image))}",), drawing.FAINT)
            drawn += _draw(asked.path(image), mark, file)
    return Predictions(out, len(rows), sum(i in answers for _, i in rows), unanswered, drawn)


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
    try:
        pixels = load(photo)
    except PhotoError:
        return False
    drawing.save(drawing.annotate(pixels, [mark]), file)
    return True


def _why(status: str | None) -> str:
    """Why an image has no crop; a status that would let it have one means that it is not there yet."""
    return status if status and status not in ("ok", "given", "rescued", "decided") else "no_crop"
