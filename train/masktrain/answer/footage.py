"""Moving pictures: frames of a video file or a camera one after another, and videos written frame by frame."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from maskprep.base import UsageError, UserError, fsync_replace, quiet, temporary_name
from maskprep.photos import Pixels
from masktrain.config.settings import nearest

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
"""What is written, by the end of the file's name: codecs that OpenCV's packages bring for every system."""

USUAL_RATE = 25.0
"""Frames a second where a source does not say."""


@dataclass(frozen=True)
class Frame:
    """One picture: its number from 0, when it is shown (seconds), and uint8 [h, w, 3] RGB."""

    number: int
    seconds: float
    pixels: Pixels


def is_camera(source: Path) -> bool:
    """Whether a source is the number of a camera; a file of that name comes first."""
    return str(source).isdecimal() and not source.exists()


def is_footage(source: Path) -> bool:
    """Whether a source is a video file or a camera."""
    return is_camera(source) or (source.suffix.lower() in VIDEOS and source.is_file())


class Footage:
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

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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


class Film:
    """A video that is being written; nothing is left of it unless the block ends well.

    Args:
        out: file to write, .mp4, .mkv or .avi; never one that exists.
        rate: frames a second.

    Raises:
        UsageError: another kind of file, or one that exists.
    """

    def __init__(self, out: Path, rate: float) -> None:
        check_film(out)
        self.out, self.rate, self.frames = out, rate, 0
        self._part = temporary_name(out)
        self._writer: Any = None
        self._size = (0, 0)

    def __enter__(self) -> Film:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self.frames:
            fsync_replace(self._part, self.out)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._part.unlink()

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


def check_film(out: Path) -> None:
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
