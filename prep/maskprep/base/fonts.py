"""Fonts for text on pictures: of those installed, the first that has every character of the text."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from maskprep.base.text import nfc

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

PLAIN = ("regular", "book", "normal", "medium")
PACKAGES = "fonts-noto-cjk or fonts-noto-core (Debian, Ubuntu), google-noto-sans-cjk-fonts (Fedora)"

_missing: set[str] = set()


def font(text: str, size: int) -> Font:
    """The font in which a text (composed, see :func:`maskprep.base.text.nfc`) is drawn, at some size in pixels."""
    return _open(font_file(text), size)


@cache
def _open(file: Path | None, size: int) -> Font:
    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, ...], size: int
) -> None:
    """Draw a line of text whose upper left corner is ``at``."""
    text = nfc(text)
    draw.text(at, text, colour, font=font(text, size))


@cache
def font_file(text: str) -> Path | None:
    """The file of the font that has most characters of a text; None for the one that comes with Pillow."""
    needed = {ord(ch) for ch in text if ch.isprintable() and ch != " "}
    if text.isascii():
        return None
    best, most = None, -1
    for file in (None, *_files()):
        has = len(needed & _characters(file))
        if has > most:
            best, most = file, has
        if most == len(needed):
            return best
    _missing.update(chr(code) for code in needed - _characters(best))
    return best


@cache
def _files() -> list[Path]:
    """All fonts of the machine, upright sans-serif ones of plain weight first; before them, the one of matplotlib."""
    from matplotlib import font_manager, get_data_path

    def rank(file: Path) -> tuple[bool, bool, str]:
        name = file.stem.lower()
        odd = any(word in name for word in ("serif", "mono", "italic", "oblique", "emoji", "symbol"))
        return odd, not name.endswith(PLAIN), name

    own = Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return [own, *sorted(map(Path, font_manager.findSystemFonts()), key=rank)]


@cache
def _characters(file: Path | None) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        if file is not None:
            return frozenset(FT2Font(str(file)).get_charmap())
        default = ImageFont.load_default(12)
        data = getattr(default, "font_bytes", b"")  # nothing where Pillow has no FreeType
        return frozenset(FT2Font(io.BytesIO(data)).get_charmap()) if data else frozenset(range(32, 127))
    except (OSError, RuntimeError, ValueError):  # no font that can be read
        return frozenset()


def missing_note() -> str:
    """A sentence about the characters that no font had since the program began; empty without any."""
    if not _missing:
        return ""
    some = "".join(sorted(_missing)[:8])
    return (
        f"No installed font has the characters {some}; the picture shows boxes in "
        f"their place. Install one, such as {PACKAGES}."
    )
