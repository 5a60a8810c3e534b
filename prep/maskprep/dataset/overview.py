"""A picture of what the pixels of a view are like: a histogram per channel, and the mean face of every class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskprep.base import counted, draw_text, keep_whole
from maskprep.crops import SOLID
from maskprep.dataset.sheet import FAINT, GAP, INK, PAPER, groups
from maskprep.dataset.view import View, open_view
from maskprep.photos import write_png
from maskprep.store import Cache, fingerprint

VERSION = 2
FACE, CELL = 112, (140, 150)
"""Height of a mean face, and size of the place for it and its name, pixels."""

LONGEST = 22
"""Characters of a name."""

INPUTS = "maskprep.inputs"


@dataclass(frozen=True)
class Overview:
    """What the picture shows: how many pixels have each value, int64 [3, 256], over all crops and over the subjects'
    pixels (zero without mattes); per class its name, how many crops, and their mean, uint8 [H, W, 3]."""

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
        out: file to write and to return; ``stats-<view>.png`` in the cache by default.
        start: told how many crops there are, when they are about to be read.
        advance: told about every crop read.

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
    histograms = _histograms(found)
    size = (max(1, round(FACE * view.size[1] / view.size[0])), FACE)
    wide = max(CELL[0], size[0] + GAP)
    across = max(1, histograms.width // wide)
    top = 34 + histograms.height
    height = top + 24 + -(-len(found.faces) // across) * CELL[1]
    sheet = Image.new("RGB", (max(histograms.width, size[0] + 2 * GAP), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw_text(draw, (GAP * 2, 8), f"{view.name}  {view.size[0]}x{view.size[1]}   {counted(len(view), 'crop')}", INK, 18)
    sheet.paste(histograms, (0, 34))
    draw_text(draw, (GAP * 2, top), "mean of the crops of each class", FAINT, 12)
    for i, (name, count, face) in enumerate(found.faces):
        x, y = 2 * GAP + i % across * wide, top + 20 + i // across * CELL[1]
        sheet.paste(Image.fromarray(face).resize(size, Image.Resampling.BOX), (x, y))
        draw_text(draw, (x, y + FACE + 2), name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…", INK, 12)
        draw_text(draw, (x, y + FACE + 16), counted(count, "crop"), FAINT, 12)
    return sheet


def _histograms(found: Overview) -> Image.Image:
    """A histogram per channel, side by side: whole crops filled, the foreground as a line, each by its own share."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 2), dpi=100, layout="constrained", facecolor="#fafafa")
    canvas: Any = FigureCanvasAgg(figure)
    values = np.arange(256)
    channels = zip("RGB", ("#c83c3c", "#329646", "#3c5ac8"), found.whole, found.foreground, strict=True)
    for axes, (name, colour, *numbers) in zip(figure.subplots(1, 3), channels, strict=True):
        whole, inside = (h / max(1, h.sum()) for h in numbers)
        title = f"{name}   mean {whole @ values / 255:.3f}"
        axes.fill_between(values, whole, color=colour, alpha=0.45, linewidth=0)
        if inside.any():
            axes.plot(values, inside, color=colour)
            title += f"   foreground (line) {inside @ values / 255:.3f}"
        axes.set_title(title, fontsize=8, loc="left")
        high = max(whole[1:255].max(), inside[1:255].max()) * 1.1 or 1.0  # clipped pixels would dwarf the rest
        axes.set(xlim=(0, 255), ylim=(0, high), xticks=(0, 128, 255), yticks=(), facecolor="none")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "left", "right"]].set_visible(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
