"""Answers one picture after another: frames of a video or a camera, photos whose names arrive on standard input.

What is held in memory does not depend on how many there are.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UserError
from maskprep.photos import PhotoError, Pixels, load
from masktrain.answer import draw as drawing
from masktrain.answer import live, sheet
from masktrain.answer.footage import Film, Footage
from masktrain.answer.predictor import Predictor

BATCH = 16
"""Frames that are held at a time; their faces go through the network together."""

EXAMPLES = 20
"""Pictures without an answer that are remembered by name."""

FACES = ("subject", "all")
BOX = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Picture:
    """A picture on its way: its name, columns of its rows, and its pixels or why there are none."""

    name: str
    columns: dict[str, Any]
    pixels: Pixels | None
    why: str = ""


@dataclass
class Watched:
    """What was answered: pictures, those with an answer, rows, drawn frames, and examples of those without one."""

    pictures: int = 0
    answered: int = 0
    rows: int = 0
    drawn: int = 0
    unanswered: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def footage(
    predictor: Predictor,
    source: Path,
    out: Path,
    *,
    proba: bool = False,
    draw: Path | None = None,
    faces: str = "subject",
    likeliest: bool = False,
    frames: int | None = None,
) -> Watched:
    """Answer for every frame of a video file or a camera, until it ends, ``frames`` are done, or Ctrl-C.

    Raises:
        UserError: the video cannot be read, or has no frames.
    """
    columns = {"ImageID": str, "frame": int, "time": float, **_columns(predictor, proba)}
    with live.open_eye(predictor.manual) as eye, Footage(source) as shown:
        film = None if draw is None else Film(draw, shown.rate)
        name = f"camera {source}" if shown.camera else source.name

        def pictures() -> Iterator[Picture]:
            for frame in itertools.islice(shown, frames):
                at = {"frame": frame.number, "time": round(frame.seconds, 3)}
                yield Picture(f"{name}#{frame.number:06d}", at, frame.pixels)

        with sheet.Sheet(out, columns) as written:
            if film is None:
                done = watch(predictor, eye, pictures(), written.add, faces=faces, likeliest=likeliest)
            else:
                with film:
                    done = watch(
                        predictor, eye, pictures(), written.add, faces=faces, likeliest=likeliest, show=film.add
                    )
            if not done.pictures:
                raise UserError(f"{source} has no frames that can be read.")
        if frames is None and done.pictures < shown.announced:
            done.warnings.append(f"{source} says that it has {shown.announced} frames; {done.pictures} could be read.")
    return done


def named(
    predictor: Predictor,
    lines: Iterable[str],
    out: Path,
    *,
    proba: bool = False,
    faces: str = "subject",
    likeliest: bool = False,
) -> Watched:
    """Answer for photos as their names arrive, one at a time."""
    columns = {"ImageID": str, **_columns(predictor, proba)}

    def pictures(limit: float) -> Iterator[Picture]:
        for line in lines:
            name = line.rstrip("\r\n")
            if not name.strip():
                continue
            try:
                yield Picture(name, {}, load(Path(name.strip()), limit))
            except PhotoError:
                yield Picture(name, {}, None, "unreadable" if Path(name.strip()).is_file() else "missing")

    with live.open_eye(predictor.manual) as eye, sheet.Sheet(out, columns) as written:
        limit = eye.config.index.max_megapixels
        return watch(predictor, eye, pictures(limit), written.add, faces=faces, likeliest=likeliest, batch=1)


def watch(
    predictor: Predictor,
    eye: live.Eye,
    pictures: Iterable[Picture],
    add: Callable[[list[dict[str, Any]]], None],
    *,
    faces: str = "subject",
    likeliest: bool = False,
    show: Callable[[Pixels], None] | None = None,
    batch: int = BATCH,
) -> Watched:
    """Answer for pictures and hand on the rows of each.

    Args:
        pictures: may never end; Ctrl-C ends them, and what was answered counts.
        add: takes the rows, picture by picture.
        faces: ``subject``, or ``all`` credible faces of every picture.
        likeliest: the most frequent training class is the answer where there is no crop; otherwise nothing.
        show: takes every picture with boxes and answers drawn on it.
        batch: pictures that are held at a time.
    """
    done = Watched()
    waiting = iter(pictures)
    try:
        while taken := list(itertools.islice(waiting, batch)):
            _answer(predictor, eye, taken, add, faces == "all", likeliest, show, done)
    except KeyboardInterrupt:
        done.warnings.append(f"Stopped after {done.pictures} pictures.")
    return done


def _answer(
    predictor: Predictor,
    eye: live.Eye,
    pictures: list[Picture],
    add: Callable[[list[dict[str, Any]]], None],
    everyone: bool,
    likeliest: bool,
    show: Callable[[Pixels], None] | None,
    done: Watched,
) -> None:
    found = [[live.Subject("unreadable", None)] if p.pixels is None else eye.look(p.pixels, everyone) for p in pictures]
    cut = [s for subjects in found for s in subjects if s.crops]
    probabilities = np.zeros((0, predictor.schema.num_classes), np.float32)
    if cut:
        probabilities = predictor.of_crops(live.stack(predictor.manual, cut))
    told = iter(zip(predictor.decide(probabilities).tolist(), probabilities, strict=True))
    for picture, subjects in zip(pictures, found, strict=True):
        rows, marks = [], []
        for number, subject in enumerate(subjects):
            answer: tuple[int, NDArray[np.float32]] | None = next(told) if subject.crops else None
            rows.append(_row(predictor, picture, number, subject, answer, likeliest))
            marks.append(_mark(predictor, subject, answer))
        add(rows)
        done.pictures, done.rows = done.pictures + 1, done.rows + len(rows)
        if any(s.crops for s in subjects):
            done.answered += 1
        elif len(done.unanswered) < EXAMPLES:
            done.unanswered[picture.name] = picture.why or subjects[0].status
        if show is not None and picture.pixels is not None:
            show(drawing.annotate(picture.pixels, marks))
            done.drawn += 1


def _row(
    predictor: Predictor,
    picture: Picture,
    number: int,
    subject: live.Subject,
    answer: tuple[int, NDArray[np.float32]] | None,
    likeliest: bool,
) -> dict[str, Any]:
    row = {"ImageID": picture.name, **picture.columns, "face": number, "status": picture.why or subject.status}
    row |= dict(zip(BOX, subject.box or (), strict=False))
    if answer is not None:
        return row | sheet.answered(predictor.schema, *answer)
    return row | ({"ans": predictor.manual.fallback} if likeliest else {})


def _mark(predictor: Predictor, subject: live.Subject, answer: tuple[int, NDArray[np.float32]] | None) -> drawing.Mark:
    if answer is None:
        return drawing.Mark(subject.box, (f"no answer: {subject.status}",), drawing.FAINT)
    return drawing.mark_of(predictor.schema, *answer, subject.box)


def _columns(predictor: Predictor, proba: bool) -> dict[str, type]:
    answers = sheet.answer_columns(predictor.schema, proba, True)
    return {"face": int, **answers, **dict.fromkeys(BOX, float), "status": str}


def standard_input() -> Iterator[str]:
    """The lines of standard input as they come."""
    yield from iter(sys.stdin.readline, "")
