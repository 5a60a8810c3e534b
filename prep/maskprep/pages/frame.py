"""A page in one file: its style, the frame around its parts, and pictures that lie in it."""

from __future__ import annotations

import base64
import functools
import html
import io
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import MADE_BY


class Html(str):
    """Text that is HTML already, so that it is not escaped again."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def text(value: object) -> str:
    """HTML of a value: escaped, unless it says itself what it is in HTML."""
    made = getattr(value, "__html__", None)
    return str(made()) if made is not None else html.escape(str(value))


@functools.cache
def style() -> Html:
    """CSS of all pages: light and dark, a phone, paper."""
    return Html((resources.files("maskprep.pages") / "style.css").read_text(encoding="utf-8"))


def document(title: str, body: str, head: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML below the title.
        head: further HTML for the head.
    """
    return (
        f"<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=generator content={MADE_BY}>\n"
        f'<meta name=viewport content="width=device-width,initial-scale=1">\n{head}\n'
        f"<title>{text(title)}</title>\n<style>\n{style()}</style>\n<h1>{text(title)}</h1>\n{body}</html>\n"
    )


def picture(pixels: NDArray[np.uint8]) -> str:
    """A picture uint8 [h, w, 3] as the address of an ``<img>``, a JPEG in itself."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
