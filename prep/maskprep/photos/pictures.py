"""Pictures for people, with a mark by which the commands know their own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maskprep.base import MADE_BY, write_with
from maskprep.photos.decode import Pixels


def write_png(path: Path, picture: Image.Image, **texts: str) -> None:
    """Write a PNG, whole or not at all, with the mark and further texts in it."""
    about = PngInfo()
    for name, text in {MADE_BY: "maskprep", **texts}.items():
        about.add_text(name, text)
    write_with(path, lambda part: picture.save(part, format="PNG", pnginfo=about))


def encode(pixels: Pixels) -> bytes:
    """A picture as PNG: uint8 [H, W], [H, W, 3] or [H, W, 4]. Quick rather than small."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
