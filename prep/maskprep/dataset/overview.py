"""A picture of what the pixels of a view are like: a histogram per channel, and the mean face of every class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maskprep.base.files import keep_whole
from maskprep.dataset.sheet import FAINT, GAP, INK, PAPER, groups
from maskprep.dataset.view import View, open_view
from maskprep.mattes.rules import SOLID
from maskprep.photos.pictures import write_png
from maskprep.store.cache import Cache
from maskprep.store.tables import fingerprint

VERSION = 1
FACE = 112
COLUMNS = 6
PANEL = (232, 130)
TINTS = ((200, 60, 60), (50, 150, 70), (60, 90, 200))
INPUTS = "maskprep.inputs"


@dataclass(frozen=True)
class Overview:
    """What the picture shows.

    Args:
        whole: how many pixels have each value, int64 [3, 256], over all crops.
        foreground: the same over the subjects' pixels (zero without mattes).
        faces: per class its name, how many crops, and their mean, uint8 [H, W, 3].
    """

    whole: NDArray[np.int64]
    foreground: NDArray[np.int64]
    faces: list[tuple[str, int, NDArray[np.uint8]]]


def survey(view: View, advance: Callable[[int], None] = lambda n: None) -> Overview:
    """Read every crop of a view once.

    A crop may be in several groups of the contact sheet (an unusual status and a class); means are of classes alone.
    """
    classes = [(name, rows) for name, rows in groups(view) if not name.startswith("status: ")]
    group = np.full(len(view), -1)
    for number, (_, rows) in enumerate(classes):
        group[rows] = number
    totals = np.zeros((len(classes), *view.size, 3), np.int64)
    whole, foreground = np.zeros((3, 256), np.int64), np.zeros((3, 256), np.int64)
    matted = view.table["matte"].notna().to_numpy()
    for row in range(len(view)):
        pixels = view.gather_original([row])[0]
        whole += _histogram(pixels.reshape(-1, 3))
        if matted[row]:
            foreground += _histogram(pixels[view.gather_alpha([row])[0] >= SOLID])
        totals[group[row]] += pixels
        advance(1)
    faces = [
        (name, len(rows), np.rint(total / len(rows)).astype(np.uint8))
        for (name, rows), total in zip(classes, totals, strict=True)
    ]
    return Overview(whole, foreground, faces)


def _histogram(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)]).astype(np.int64)


def draw_overview(
    cache: Path,
    view: str | None = None,
    out: Path | None = None,
    start: Callable[[int], None] = lambda n: None,
    advance: Callable[[int], None] = lambda n: None,
) -> Path:
    """Draw the picture of a view as PNG, unless it is there and nothing has changed.

    Args:
        cache: the cache.
        view: which crops; the only view, or ``face``.
        out: file to write; ``stats-<view>.png`` in the cache by default.
        start: told how many crops there are, when they are about to be read.
        advance: told about every crop read.

    Returns:
        The file.

    Raises:
        UsageError: no such cache or view, or ``out`` would lie among the photos or take the place of another file.
    """
    opened = open_view(cache, view)
    if out is not None:
        Cache(cache).clear_of_photos(out)
        keep_whole(out)
    path = out or cache / f"stats-{opened.name}.png"
    inputs = fingerprint("overview", VERSION, opened.fingerprint(), opened.mattes_fingerprint())
    if _inputs_of(path) == inputs:
        return path
    start(len(opened))
    picture = _compose(opened, survey(opened, advance))
    write_png(path, picture, **{INPUTS: inputs})
    return path


def _inputs_of(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(INPUTS, ""))
    except OSError:
        return ""


def _compose(view: View, found: Overview) -> Image.Image:
    width = max(1, round(FACE * view.size[1] / view.size[0]))
    cell = (max(width, 134) + GAP, FACE + 36)
    rows = -(-len(found.faces) // COLUMNS)
    total = (max(3 * (PANEL[0] + 3 * GAP), COLUMNS * cell[0]) + 2 * GAP, 34 + PANEL[1] + 44 + rows * cell[1] + GAP)
    sheet = Image.new("RGB", total, PAPER)
    draw = ImageDraw.Draw(sheet)
    title, small = (ImageFont.load_default(size) for size in (18, 12))
    draw.text((GAP * 2, 8), f"{view.name}  {view.size[0]}x{view.size[1]}   {len(view)} crops", INK, font=title)
    for c, tint in enumerate(TINTS):
        _panel(draw, (2 * GAP + c * (PANEL[0] + 3 * GAP), 34), "RGB"[c], tint, found.whole[c], found.foreground[c])
    below = 34 + PANEL[1] + 20
    draw.text((GAP * 2, below), "mean of the crops of each class", FAINT, font=small)
    for i, (name, count, face) in enumerate(found.faces):
        left, top = 2 * GAP + (i % COLUMNS) * cell[0], below + 20 + (i // COLUMNS) * cell[1]
        sheet.paste(Image.fromarray(face).resize((width, FACE), Image.Resampling.BOX), (left, top))
        draw.text((left, top + FACE + 2), name, INK, font=small)
        draw.text((left, top + FACE + 16), f"{count} crops", FAINT, font=small)
    return sheet


def _panel(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    name: str,
    tint: tuple[int, int, int],
    whole: NDArray[np.int64],
    foreground: NDArray[np.int64],
) -> None:
    """One histogram: whole crops filled, the foreground as a line; each by its own share of pixels."""
    left, top = at
    bottom, small = top + PANEL[1], ImageFont.load_default(11)
    shares = [h / max(1, h.sum()) for h in (whole, foreground)]
    inner = slice(1, 255)  # clipped pixels would dwarf the rest; their bars just end at the top
    high = max(float(s[inner].max()) for s in shares) * 1.1 or 1.0
    xs = np.linspace(left, left + PANEL[0], 256)
    heights = [np.minimum(s / high, 1.0) * (PANEL[1] - 14) for s in shares]
    filled = [(left, bottom), *zip(xs.tolist(), (bottom - heights[0]).tolist(), strict=True), (left + PANEL[0], bottom)]
    draw.polygon(filled, fill=tuple(int(0.45 * v + 0.55 * 250) for v in tint))
    if foreground.sum():
        draw.line([*zip(xs.tolist(), (bottom - heights[1]).tolist(), strict=True)], fill=tint, width=2)
    draw.line([(left, bottom), (left + PANEL[0], bottom)], fill=FAINT)
    values = np.arange(256)
    mean = float((shares[0] * values).sum()) / 255
    said = f"{name}   mean {mean:.3f}"
    if foreground.sum():
        said += f"   foreground (line) {float((shares[1] * values).sum()) / 255:.3f}"
    draw.text((left, top), said, INK, font=small)
    for value in (0, 128, 255):
        place = left + PANEL[0] * value / 255
        draw.text((place - (0 if value == 0 else 20 if value == 255 else 8), bottom + 2), str(value), FAINT, font=small)
