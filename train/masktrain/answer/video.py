"""Videos, cameras and photos that arrive by name: read, answered and drawn one after another.

What is held in memory does not depend on how many there are.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from maskprep.base import UsageError, UserError, counted, fsync_replace, quiet, temporary_name
from maskprep.photos import PhotoError, Pixels, load
from masktrain.answer import draw as drawing
from masktrain.answer import live
from masktrain.answer.model import Model
from masktrain.answer.table import BOX, TableWriter, answer_columns, answer_row, fallback_row
from masktrain.config.settings import nearest

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
"""What is written, by the end of the file's name: codecs that OpenCV's packages bring for every system."""

USUAL_RATE = 25.0
"""Frames a second where a source does not say."""

BATCH = 16
"""Frames that are held at a time; their faces go through the network together."""

EXAMPLES = 20
"""Pictures without an answer that are remembered by name."""

FACES = ("subject", "all")


def is_camera(source: Path) -> bool:
    """Whether a source is the number of a camera; a file of that name comes first."""
    return str(source).isdecimal() and not source.exists()


def is_video(source: Path) -> bool:
    """Whether a source is a video file or a camera."""
    return is_camera(source) or (source.suffix.lower() in VIDEOS and source.is_file())


@dataclass(frozen=True)
class Frame:
    """One picture: its number from 0, when it is shown (seconds), and uint8 [h, w, 3] RGB."""

    number: int
    seconds: float
    pixels: Pixels


class VideoReader:
    """The frames of a video file or a camera; one at a time is in memory.

    Args:
        source: file, or number of a camera.

    Attributes:
        rate: frames a second.
        announced: how many frames there should be; 0 where nobody knows.
        read: how many there were so far.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: Path) -> None:
        import cv2

        self.source, self.camera, self.read = source, is_camera(source), 0
        with quiet():
            self._capture = cv2.VideoCapture(int(str(source)) if self.camera else str(source))
        if not self._capture.isOpened():
            if self.camera:
                raise UserError(f"There is no camera {source}, or another program uses it.")
            raise UserError(f"{source} cannot be read as a video.")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        count = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.announced = int(count) if not self.camera and np.isfinite(count) and count > 0 else 0

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        started = time.monotonic()
        while True:
            with quiet():  # a damaged end is told by the number of frames
                there, pixels = self._capture.read()
            if not there:
                return
            seconds = time.monotonic() - started if self.camera else self.read / self.rate
            frame = Frame(self.read, seconds, np.ascontiguousarray(pixels[:, :, ::-1]))
            self.read += 1
            yield frame


class VideoWriter:
    """A video that is being written; nothing is left of it unless the block ends well.

    Args:
        out: file to write, .mp4, .mkv or .avi; never one that exists.
        rate: frames a second.

    Raises:
        UsageError: another kind of file, or one that exists.
    """

    def __init__(self, out: Path, rate: float) -> None:
        check_video(out)
        self.out, self.rate, self.frames = out, rate, 0
        self._part = temporary_name(out)
        self._writer: Any = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self.frames:
            fsync_replace(self._part, self.out)
        else:
            self._part.unlink(missing_ok=True)

    def add(self, pixels: Pixels) -> None:
        """Write one frame, uint8 [h, w, 3] RGB; odd sides lose a line, which most players ask for.

        Raises:
            UserError: the video cannot be written here, or a frame has another size than the first.
        """
        import cv2

        even = np.ascontiguousarray(pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2, ::-1])
        size = (even.shape[1], even.shape[0])
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*CODECS[self.out.suffix.lower()])
            with quiet():
                self._writer = cv2.VideoWriter(str(self._part), code, self.rate, size)
            if not self._writer.isOpened():
                raise UserError(f"{self.out} cannot be written as a video.", "Try a name that ends in .avi.")
            self._size = size
        if size != self._size:
            raise UserError(f"Frame {self.frames} is {size[0]}x{size[1]}, those before were {self._size}.")
        self._writer.write(even)
        self.frames += 1


def check_video(out: Path) -> None:
    """Refuse what cannot be written as a video.

    Raises:
        UsageError: another kind of file, or one that exists.
    """
    if out.suffix.lower() not in CODECS:
        near = nearest(out.suffix.lower(), tuple(CODECS))
        raise UsageError(
            f"--draw of a video writes a video, and {out} is none.", f"End its name in {(near or ['.mp4'])[0]}."
        )
    if out.exists():
        raise UsageError(f"{out} already exists.", "Name a new file with --draw.")


@dataclass(frozen=True)
class Picture:
    """A picture on its way: its name, columns of its rows, and its pixels or why there are none."""

    name: str
    columns: dict[str, Any]
    pixels: Pixels | None
    why: str = ""


@dataclass
class Stream:
    """Answers for pictures, one after another, and the count of what was answered.

    Args:
        everyone: whether all credible faces of a picture are answered for, and not its subject alone.
        likeliest: the most frequent training class is the answer where there is no crop; otherwise nothing.
        batch: pictures that are held at a time.

    Attributes:
        unanswered: why some pictures have no answer, the first of them by name.
    """

    model: Model
    finder: live.FaceFinder
    everyone: bool = False
    likeliest: bool = False
    batch: int = BATCH
    pictures: int = 0
    answered: int = 0
    rows: int = 0
    drawn: int = 0
    unanswered: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def run(
        self,
        pictures: Iterable[Picture],
        add: Callable[[list[dict[str, Any]]], None],
        show: Callable[[Pixels], None] | None = None,
    ) -> Stream:
        """Answer for pictures and hand on the rows of each.

        Args:
            pictures: may never end; Ctrl-C ends them, and what was answered counts.
            add: takes the rows, picture by picture.
            show: takes every picture with boxes and answers drawn on it.
        """
        waiting = iter(pictures)
        try:
            while taken := list(itertools.islice(waiting, self.batch)):
                self._answer(taken, add, show)
        except KeyboardInterrupt:
            self.warnings.append(f"Stopped after {counted(self.pictures, 'picture')}.")
        return self

    def _answer(
        self,
        pictures: list[Picture],
        add: Callable[[list[dict[str, Any]]], None],
        show: Callable[[Pixels], None] | None,
    ) -> None:
        found = [
            [live.Subject("unreadable", None)] if p.pixels is None else self.finder.find(p.pixels, self.everyone)
            for p in pictures
        ]
        schema, spec = self.model.schema, self.model.spec
        cut = [s for subjects in found for s in subjects if s.crops]
        answers = self.model.answers(*self.model.of_crops(live.stack(spec, cut))) if cut else iter(())
        for picture, subjects in zip(pictures, found, strict=True):
            rows, marks = [], []
            for number, subject in enumerate(subjects):
                row = {"ImageID": picture.name, **picture.columns, "face": number}
                row |= {"status": picture.why or subject.status, **dict(zip(BOX, subject.box or (), strict=False))}
                if subject.crops:
                    answer = next(answers)
                    row |= answer_row(schema, *answer)
                    marks.append(drawing.mark_of(schema, *answer[:2], subject.box))
                else:
                    row |= fallback_row(schema, spec.fallback) if self.likeliest else {}
                    marks.append(drawing.Mark(subject.box, (f"no answer: {subject.status}",), drawing.FAINT))
                rows.append(row)
            add(rows)
            self.pictures, self.rows = self.pictures + 1, self.rows + len(rows)
            if any(s.crops for s in subjects):
                self.answered += 1
            elif len(self.unanswered) < EXAMPLES:
                self.unanswered[picture.name] = picture.why or subjects[0].status
            if show is not None and picture.pixels is not None:
                show(drawing.annotate(picture.pixels, marks))
                self.drawn += 1

    def columns(self, proba: bool) -> dict[str, type]:
        """Those of the rows, beside the pictures' own."""
        answers = answer_columns(self.model.schema, self.model.numbers, proba, True)
        return {"face": int, **answers, **dict.fromkeys(BOX, float), "status": str}


def answer_video(
    stream: Stream, source: Path, out: Path, *, proba: bool = False, draw: Path | None = None, frames: int | None = None
) -> Stream:
    """Answer for every frame of a video file or a camera, until it ends, ``frames`` are done, or Ctrl-C.

    Raises:
        UserError: the video cannot be read, or has no frames.
    """
    with VideoReader(source) as shown, contextlib.ExitStack() as stack:
        name = f"camera {source}" if shown.camera else source.name
        pictures = (
            Picture(f"{name}#{f.number:06d}", {"frame": f.number, "time": round(f.seconds, 3)}, f.pixels)
            for f in itertools.islice(shown, frames)
        )
        columns = {"ImageID": str, "frame": int, "time": float, **stream.columns(proba)}
        table = stack.enter_context(TableWriter(out, columns))
        video = None if draw is None else stack.enter_context(VideoWriter(draw, shown.rate))
        stream.run(pictures, table.add, None if video is None else video.add)
        if not stream.pictures:
            raise UserError(f"{source} has no frames that can be read.")
        if frames is None and stream.pictures < shown.announced:
            stream.warnings.append(
                f"{source} says that it has {shown.announced} frames; {stream.pictures} could be read."
            )
    return stream


def answer_names(stream: Stream, out: Path, lines: Iterable[str] | None = None, *, proba: bool = False) -> Stream:
    """Answer for photos as their names arrive, one at a time; by default on standard input."""

    def pictures(limit: float) -> Iterator[Picture]:
        for line in iter(sys.stdin.readline, "") if lines is None else lines:
            name = line.rstrip("\r\n")
            if not name.strip():
                continue
            try:
                yield Picture(name, {}, load(Path(name.strip()), limit))
            except PhotoError:
                yield Picture(name, {}, None, "unreadable" if Path(name.strip()).is_file() else "missing")

    stream.batch = 1
    with TableWriter(out, {"ImageID": str, **stream.columns(proba)}) as table:
        return stream.run(pictures(stream.finder.config.index.max_megapixels), table.add)
