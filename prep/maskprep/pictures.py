"""Pictures for people, with a mark by which the commands know their own."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maskprep.store.files import MADE_BY, write_with


def write_png(path: Path, picture: Image.Image, **texts: str) -> None:
    """Write a PNG, whole or not at all, with the mark and further texts in it."""
    about = PngInfo()
    for name, text in {MADE_BY: "maskprep", **texts}.items():
        about.add_text(name, text)
    write_with(path, lambda part: picture.save(part, format="PNG", pnginfo=about))
