"""Answers for photos, lists of photos, or a cache: ImageID,ans, and all there is to know about each if asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, counted, html_table, keep_out, keep_whole
from maskprep.dataset import View
from maskprep.labels import Schema
from maskprep.photos import PhotoError, load
from maskprep.store import Cache, read_table
from masktrain.answer import draw as drawing
from masktrain.answer import live, model, persons, photos, video
from masktrain.answer.model import Model, Read, Rows
from masktrain.answer.photos import STDIN, Picture, Request
from masktrain.answer.table import (
    BOX,
    STDOUT,
    TableWriter,
    answer_columns,
    answer_row,
    check_table,
    detailed,
    fallback_row,
)
from masktrain.config.settings import nearest

WITHOUT = ("empty", "likeliest")


@dataclass(frozen=True)
class Predictions:
    """What was written: one row per photo, and what became of those without a crop (by ImageID).

    ``drawn`` is how many annotated pictures were written. Of a video ``rows`` counts frames, and only some of those
    without an answer are listed. Without a file, ``table`` has all that a Parquet file would hold, and ``seen`` how
    many faces were found on each photo and why its choice is doubtful.
    """

    file: Path | None
    rows: int
    answered: int
    unanswered: dict[str, str] = field(default_factory=dict)
    drawn: int = 0
    warnings: tuple[str, ...] = ()
    schema: Schema | None = None
    table: pd.DataFrame | None = None
    seen: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """For notebooks: how many were answered, and the first answers where they are not in a file."""
        caption = f"{self.answered} of {counted(self.rows, 'photo')} answered" + (f": {self.file}" if self.file else "")
        rows = [] if self.table is None else self.table.head(10).to_dict("records")
        return html_table("\n".join([caption, *self.warnings]), [{str(k): v for k, v in row.items()} for row in rows])


def predict(
    run: Path,
    source: Path | str | Picture | Sequence[Picture],
    out: Path | None = None,
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
    person_mean: str | None = None,
) -> Predictions:
    """Write the answers of a run's best model for every photo, or for every frame of a video.

    Raw photos go through the same preprocessing as the crops the model was trained on; so a photo without a face is
    dealt with as there (``choose.no_face``). ImageID is the file name when all photos lie in one folder, otherwise the
    path, or what a list calls it; where the folder has an info.csv, its rows and their order are kept.

    Args:
        run: a run, an ensemble, or an exported ONNX file.
        source: a photo, a folder of photos, a cache; a list of photos (.csv, .txt, or ``-`` for standard input); a
            video file or the number of a camera; or pictures in memory, one or several, see
            :data:`masktrain.answer.photos.Picture`, whose ImageIDs are 0, 1, ...
        out: the file to write; None for photos or a cache gives a table instead. A .csv, .parquet or .jsonl; the
            last two hold all details and probabilities. ``-`` writes JSON lines to standard output; then photos named
            on standard input are answered one by one, each judged by itself.
        proba: add a column ``p_<class>`` for each class.
        details: add each attribute's class and probability, its number where that is answered, the face box
            (pixels of the upright photo) and the status.
        draw: folder to write the photos to with box and answer drawn on them; new or empty. For a video, the video
            file to write.
        without: the answer for a photo that has no crop: ``empty``, or ``likeliest``, the most frequent training class.
        split: one of :data:`maskprep.labels.columns.SPLITS`, for a cache; all images by default.
        view: for a cache; by default the one the run was trained on. Of several views, all of the run's size, the mean
            is taken (see ``tta_mean``).
        tta: see :func:`masktrain.answer.model.load`, with ``tta_mean``.
        faces: ``subject`` of every frame, or ``all`` faces (for videos, cameras and photos that stream).
        frames: stop a video or a camera after so many.
        person_mean: attributes that a person has in all photos, separated by commas: their probabilities become the
            mean over the person's photos. For a cache, and for folders whose layout says who is on each photo.
        force: write over a file ``out`` that is there, whatever it holds.

    Raises:
        UserError: the run or the source cannot be used; or what is to be written would take the place of something
            else, or lie among the photos or in the cache.
    """
    given = source if isinstance(source, Path) else Path(source) if isinstance(source, str) else photos.listed(source)
    path = given if isinstance(given, Path) else None
    moving = path is not None and video.is_video(path)
    streamed = moving or (str(path) == STDIN and out == STDOUT)
    if out is not None:
        check_table(out)
    elif moving:
        raise UsageError("The answers for a video are written as a table.", "Name it with --out.")
    if draw is not None:
        (video.check_video if moving else drawing.check_folder)(draw)
    for name, value, known in (("without-crop", without, WITHOUT), ("faces", faces, video.FACES)):
        if value not in known:
            hint = f"Use {' or '.join(nearest(value, known) or known)}."
            raise UsageError(f"--{name} cannot be '{value}'.", hint)
    if not streamed and (faces != "subject" or frames is not None):
        raise UsageError("--faces and --frames are for videos and cameras; a photo has one subject.")
    if streamed and not moving and (draw is not None or frames is not None):
        raise UsageError("--draw and --frames cannot be used for photos listed on standard input.")
    if path is not None and not moving and str(path) != STDIN and not path.exists():
        raise UsageError(f"{path} does not exist.")
    cached = path if path is not None and (path / "dataset.json").is_file() else None
    outputs = {"--out": None if out == STDOUT else out, "--draw": draw}
    if path is not None:
        _keep_clear(path, cached is not None, outputs)
    if out not in (STDOUT, None):
        keep_whole(out, force)
    if cached is None and (split is not None or view is not None):
        raise UsageError(f"{path or 'A picture'} is not a cache: --split and --view are for caches.")
    trained = model.load(run, device, tta, tta_mean)
    everything, likeliest = out is None or detailed(out), without == "likeliest"
    names = persons.attributes(person_mean, trained.schema)
    if streamed and names:
        raise UsageError("--person-mean has no meaning for what streams: nothing says who is on it.")
    if streamed and path is not None and out is not None:
        with live.open_finder(trained.spec) as finder:
            done = video.Stream(trained, finder, faces == "all", likeliest)
            if moving:
                video.answer_video(done, path, out, proba=proba or everything, draw=draw, frames=frames)
            else:
                video.answer_names(done, out, proba=proba or everything)
        return Predictions(out, done.pictures, done.answered, done.unanswered, done.drawn, tuple(done.warnings))
    with tempfile.TemporaryDirectory(prefix="masktrain-") as folder:
        if cached is not None:
            named: list[str | None] = [view] if isinstance(view, str) else list(view or (None,))
            views = tuple(model.open_for(trained, cached, v) for v in named)
            root = Path(views[0].dataset.get("source", {}).get("root", ""))
            asked = Request(views, photos.cache_rows(views[0], split), lambda image: root / image, tta_mean)
        else:
            asked = photos.prepare(given, Path(folder), trained, workers or os.cpu_count() or 1, outputs)
        return _write(
            trained, asked, out, proba or everything, details or everything, draw, likeliest, batch_size, names
        )


def _keep_clear(source: Path, cached: bool, outputs: Mapping[str, Path | None]) -> None:
    """Nothing is written onto what is asked about, among its photos or into its cache."""
    for option, out in outputs.items():
        if out is None:
            continue
        if out.exists() and source.exists() and out.samefile(source):
            raise UsageError(f"{out} is the source itself.", f"Name another place with {option}.")
        if cached:
            keep_out(out, source, "tables", option)
            Cache(source).clear_of_photos(out, option)
        elif source.is_dir():
            keep_out(out, source, option=option)


def over_views(trained: Model, views: Sequence[View], rows: Rows, batch_size: int, mean: str = "probability") -> Read:
    """Mean of the probabilities, and of numbers, over several views of one cache, for rows of the first one's table.

    Args:
        mean: of the ``probability``, or of its ``logit``.

    Raises:
        UserError: a view lacks some of the images, or has crops of another size than the model takes.
    """
    first = views[0]
    read = [trained.read(v, rows if v is first else model.same_images(first, rows, v), batch_size) for v in views]
    if len(read) == 1:
        return read[0]
    found = [table for table, _ in read]
    numbers = {name: np.mean([told[name] for _, told in read], axis=0) for name in trained.numbers}
    if mean == "probability":
        return np.asarray(np.mean(found, axis=0), np.float32), numbers
    logits = np.mean([np.log(np.maximum(t, 1e-12)) for t in found], axis=0)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float32), numbers


def _write(
    trained: Model,
    asked: Request,
    out: Path | None,
    proba: bool,
    details: bool,
    draw: Path | None,
    likeliest: bool,
    batch_size: int,
    names: Sequence[str],
) -> Predictions:
    """Predict the images that have a crop and write all rows."""
    pictures, rows, schema = asked.views[0], asked.rows, trained.schema
    if not rows:
        raise UserError(f"There are no photos to predict in {pictures.path}.")
    crops, everything = pictures.table, pd.concat([pictures.table, pictures.missing])
    status = dict(zip(everything["image"], everything["status"], strict=True))
    named = {image for _, image in rows}
    wanted = np.flatnonzero(crops["image"].isin(named))
    read = over_views(trained, asked.views, wanted, batch_size, asked.mean)
    if names:
        who = crops["person"].iloc[wanted]
        if (who == crops["image"].iloc[wanted]).all():  # as View has it where nobody is known
            raise UsageError(
                "--person-mean: nothing says who is on these photos.",
                "Leave it away, or name source.person in maskprep.yaml.",
            )
        read = persons.mean_over_photos(schema, who.tolist(), *read, names)
    answers: dict[str | None, tuple[int, NDArray[np.float32], dict[str, float]]] = {}
    answers |= zip(crops["image"].iloc[wanted], trained.answers(*read), strict=True)
    boxes = read_boxes(pictures.path) if details or draw is not None else {}
    unanswered = {n: "missing" if i is None else _why(status.get(i)) for n, i in rows if i not in answers}
    columns = {"ImageID": str, **answer_columns(schema, trained.numbers, proba, details)}
    columns |= dict.fromkeys(BOX, float) if details else {}
    columns |= {"status": str} if details or unanswered else {}

    def line(name: str, image: str | None) -> dict[str, Any]:
        said = (details and status.get(str(image))) or "ok"
        row: dict[str, Any] = {"ImageID": name, "status": unanswered.get(name, said)}
        row |= dict(zip(BOX, boxes.get(str(image)) or (), strict=False))
        if image in answers:
            return row | answer_row(schema, *answers[image])
        return row | (fallback_row(schema, trained.spec.fallback) if likeliest else {})

    drawn = 0
    with contextlib.ExitStack() as stack:  # a table is put in place when the pictures are drawn
        if out is not None:
            written = stack.enter_context(TableWriter(out, columns))
            for name, image in rows:
                written.add([line(name, image)])
        for file, image in _drawings(rows, draw) if draw is not None else ():
            if image in answers:
                mark = drawing.mark_of(schema, *answers[image][:2], boxes.get(image))
            else:
                mark = drawing.Mark(boxes.get(image), (f"no answer: {_why(status.get(image))}",), drawing.FAINT)
            drawn += _draw(asked.path(image), mark, file)
    done = Predictions(out, len(rows), sum(i in answers for _, i in rows), unanswered, drawn)
    if out is not None:
        return done
    faces = _faces(pictures.path)
    table = pd.DataFrame([line(name, image) for name, image in rows], columns=list(columns))
    return dataclasses.replace(
        done, schema=schema, table=table, seen={n: faces[i] for n, i in rows if i is not None and i in faces}
    )


def _faces(cache: Path) -> dict[str, tuple[int, str]]:
    """How many faces were found on each image, and why the choice of one is doubtful (empty for a clear case)."""
    if not (cache / "faces.parquet").is_file():
        return {}
    counts = read_table(cache / "faces.parquet").groupby("image")["group"].nunique()
    subjects = read_table(cache / "subjects.parquet").set_index("image")["reason"].fillna("")
    return {str(image): (int(counts.get(image, 0)), str(reason)) for image, reason in subjects.items()}


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
