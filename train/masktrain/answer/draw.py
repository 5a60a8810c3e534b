"""Boxes and labels on pictures, for photos and for every frame of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskprep.base import UsageError, font, nfc, write_with
from maskprep.labels import Schema
from masktrain.answer.table import attribute_probabilities

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]

COLOURS = ((22, 130, 72), (214, 110, 0), (190, 30, 45), (40, 90, 190), (130, 60, 160), (0, 130, 140))
"""Of the classes of the first attribute, in turn."""

FAINT = (90, 90, 90)
QUALITY = 92


@dataclass(frozen=True)
class Mark:
    """A box with some lines of text and a colour; without a box the text stands in the corner."""

    box: Box | None
    lines: tuple[str, ...]
    colour: tuple[int, int, int]


def mark_of(schema: Schema, answer: int, probabilities: NDArray[np.float32], box: Box | None) -> Mark:
    """The answer for one face: each attribute's class with its probability."""
    lines = []
    for name, index in zip(schema.joint, schema.decode(answer), strict=True):
        sure = attribute_probabilities(schema, probabilities, name)[index]
        lines.append(f"{schema[name].classes[index]}  {sure:.0%}")
    return Mark(box, tuple(lines), COLOURS[schema.decode(answer)[0] % len(COLOURS)])


def annotate(pixels: Pixels, marks: Sequence[Mark]) -> Pixels:
    """A copy of a picture uint8 [h, w, 3] with marks drawn on it, sized to the picture."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    side = min(picture.size)
    width, size = max(1, round(side / 160)), max(11, round(side / 26))
    for mark in marks:
        if mark.box is not None:
            draw.rectangle([float(v) for v in mark.box], outline=mark.colour, width=width)
        if mark.lines:
            _label(draw, mark, picture.size, size, width)
    return np.asarray(picture)


def _label(draw: ImageDraw.ImageDraw, mark: Mark, picture: tuple[int, int], size: int, width: int) -> None:
    """The lines of a mark: under its box if there is room, else above it, else inside."""
    text = nfc("\n".join(mark.lines))
    face = font(text, size)
    pad = max(2, size // 4)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=face, spacing=pad)
    wide, high = right - left + 2 * pad, bottom - top + 2 * pad
    if mark.box is None:
        x, y = 0.0, 0.0
    else:
        x, y = mark.box[0], mark.box[3] + width
        if y + high > picture[1]:
            y = mark.box[1] - high - width
        if y < 0:
            y = max(0.0, min(mark.box[3], picture[1]) - high)
    x = max(0.0, min(x, picture[0] - wide))
    draw.rectangle([x, y, x + wide, y + high], fill=mark.colour)
    draw.multiline_text((x + pad - left, y + pad - top), text, (255, 255, 255), font=face, spacing=pad)


def save(pixels: Pixels, file: Path) -> None:
    """Write a JPEG, whole or not at all."""
    picture = Image.fromarray(pixels)
    write_with(file, lambda part: picture.save(part, format="JPEG", quality=QUALITY))


def check_folder(folder: Path) -> None:
    """Only a new or empty folder is drawn into, so that nothing is ever written over.

    Raises:
        UsageError: it holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty.", "Name a new folder with --draw.")
