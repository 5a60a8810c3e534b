"""Contact sheets: a picture of the crops, for people to see what a model will see."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from maskprep.base import counted, draw_text, keep_whole
from maskprep.dataset.view import View, open_view
from maskprep.photos import write_png
from maskprep.store import Cache

THUMB = 112
"""Height of one crop on the sheet, pixels."""

GAP = 4
CAPTION = 190
INK, PAPER, FAINT = (30, 30, 30), (250, 250, 250), (120, 120, 120)


def draw_sheet(
    cache: Path,
    view: str | None = None,
    out: Path | None = None,
    *,
    count: int = 12,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Draw a PNG with a row of crops per unusual status and per joint class, and return its path.

    Args:
        cache: the cache.
        view: which crops; the only view, or ``face``.
        out: file to write; ``sheet-<view>.png`` in the cache by default.
        count: crops per row, drawn at random.
        seed: which are drawn; the same seed draws the same sheet.
        force: write over a file that is no sheet of ours.

    Raises:
        UserError: no such cache or view, or the file would lie among the photos or take the place of another.
    """
    opened = open_view(cache, view)
    if out is not None:
        Cache(cache).clear_of_photos(out)
        keep_whole(out, force)
    path = out or cache / f"sheet-{opened.name}.png"
    rows = [(caption, len(members), _draw(members, count, seed)) for caption, members in groups(opened)]
    picture = _compose(opened, rows)
    write_png(path, picture)
    return path


def embedded_sheet(view: View, count: int = 6) -> str:
    """The sheet of a view, with so many crops in a row, as an HTML image that needs no file."""
    rows = [(caption, len(members), _draw(members, count, 0)) for caption, members in groups(view)]
    _compose(view, rows).save(buffer := io.BytesIO(), "PNG")
    return f'<img alt="crops by class" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def groups(view: View) -> list[tuple[str, list[int]]]:
    """Captions and table rows of the rows of a sheet: unusual statuses, the classes, and images without a label."""
    table, names = view.table, view.schema.class_names
    unusual = sorted(set(table["status"]) - {"ok", "given"})
    found = [(f"status: {status}", _where(table["status"] == status)) for status in unusual]
    found += [(name, _where(table["label"] == label)) for label, name in enumerate(names)]
    found.append(("no label" if names else "photos", _where(table["label"].isna())))
    return [(caption, members) for caption, members in found if members]


def _where(mask: pd.Series[bool]) -> list[int]:
    return [int(i) for i in np.flatnonzero(mask.fillna(False).to_numpy(dtype=bool))]


def _draw(members: list[int], count: int, seed: int) -> list[int]:
    chosen = np.random.default_rng(seed).permutation(len(members))[:count]
    return [members[i] for i in sorted(chosen)]


def _compose(view: View, rows: list[tuple[str, int, list[int]]]) -> Image.Image:
    height, title_height = THUMB, 34
    width = max(1, round(THUMB * view.size[1] / view.size[0]))
    columns = max((len(chosen) for *_, chosen in rows), default=1)
    size = (CAPTION + columns * (width + GAP) + GAP, title_height + len(rows) * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    crops, missing = len(view.table), len(view.missing)
    without = f", {counted(missing, 'photo')} without" if missing else ""
    caption = f"{view.name}  {view.size[0]}x{view.size[1]}   {counted(crops, 'crop')}{without}"
    draw_text(draw, (GAP * 2, 8), caption, INK, 18)
    for i, (name, total, chosen) in enumerate(rows):
        top = title_height + i * (height + GAP)
        draw_text(draw, (GAP * 2, top + height / 2 - 18), name, INK, 15)
        draw_text(draw, (GAP * 2, top + height / 2 + 2), counted(total, "image"), FAINT, 12)
        for j, pixels in enumerate(view.gather(np.array(chosen, dtype=np.intp))):
            crop = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
            sheet.paste(crop, (CAPTION + j * (width + GAP), top))
    return sheet
