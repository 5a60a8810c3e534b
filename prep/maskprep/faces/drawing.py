"""Photos with everything the detectors found drawn on them, and which face was chosen."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from maskprep.base import UsageError, draw_text, font, keep_out, keep_whole
from maskprep.faces.subjects import Subjects
from maskprep.photos import PhotoError, PhotoFolder, find_image, write_png
from maskprep.store import Cache, read_table

COLOURS = {
    "yunet": (255, 140, 0),
    "centerface": (240, 90, 160),
    "blazeface_full": (0, 160, 255),
    "blazeface_short": (190, 70, 255),
}
CHOSEN, OTHER = (20, 200, 60), (230, 40, 40)
LONGEST = 1000
"""A drawn photo is at most this long, pixels."""

INK, PAPER = (30, 30, 30), (250, 250, 250)


def draw_faces(
    cache: Cache,
    photos: PhotoFolder,
    chooser: Subjects,
    image: str | None = None,
    out: Path | None = None,
    count: int = 24,
    force: bool = False,
) -> Path:
    """Draw boxes, search passes, scores and the choice on one photo, or on a sheet of several.

    Args:
        cache: up to date.
        photos: opens its photos.
        chooser: its subjects.
        image: one image; None for a sheet of ``count`` of those most worth a look: unclear choices first, then photos
            with the most faces.
        out: PNG to write; by default ``faces.png`` or ``faces-<image>.png`` in the cache.
        force: write over a file that is no drawing of ours.

    Raises:
        UserError: no such image, it cannot be read, or the file would lie among the photos or replace another.
    """
    if out is not None:
        keep_out(out, photos.root)
        keep_whole(out, force)
    if image is not None:
        name = find_image(chooser.images["image"].tolist(), image, photos.root)
        picture = draw_photo(photos, name, chooser)
        path = out or cache.root / f"faces-{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
    else:
        picture = _sheet(cache, photos, chooser, count)
        path = out or cache.root / "faces.png"
    write_png(path, picture)
    return path


def draw_photo(photos: PhotoFolder, image: str, chooser: Subjects, longest: int = LONGEST) -> Image.Image:
    """One photo with every face: thin boxes as the detectors gave them, a thick one per face, green for the subject.

    Raises:
        UsageError: the photo cannot be decoded.
    """
    try:
        pixels = photos(image).pixels()
    except PhotoError as error:
        raise UsageError(f"'{image}' cannot be drawn: {error}.") from error
    choice = chooser.choose(image)
    scale = min(longest / max(pixels.shape[:2]), 4.0)
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    photo = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(photo)
    detections = chooser.faces[chooser.faces["image"] == image].to_dict("records")
    for detection in detections:
        colour = COLOURS.get(detection["detector"], OTHER)
        draw.rectangle([detection[c] * scale for c in ("x0", "y0", "x1", "y1")], outline=colour, width=1)
        for x, y in np.reshape(detection["keypoints"], (-1, 2)) * scale:
            draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
    lines = [f"{image}: {choice.status}" + (f" ({choice.reason})" if choice.reason else "")]
    for candidate in chooser.candidates(image):
        face = candidate.face
        mine = face.faces[0] == choice.face
        colour = CHOSEN if mine else OTHER
        box = [v * scale for v in face.box]
        draw.rectangle(box, outline=colour, width=4 if mine else 2)
        tag = f"{face.faces[0]}  {candidate.mark:.2f}"
        left, top, right, bottom = draw.textbbox((box[0], max(0, box[1] - 20)), tag, font=font(tag, 15))
        draw.rectangle([left - 3, top - 2, right + 3, bottom + 2], fill=colour)
        draw_text(draw, (box[0], max(0, box[1] - 20)), tag, (255, 255, 255), 15)
        seen = [f"{d['detector']} {d['score']:.2f} {d['rung']}" for d in detections if d["face"] in face.faces]
        signals = ", ".join(f"{name} {value:.2f}" for name, value in candidate.signals.items())
        lines.append(f"{face.faces[0]}: mark {candidate.mark:.2f} ({signals}); " + ", ".join(seen[:4]))
    if choice.face is None and choice.box is not None:
        draw.rectangle([v * scale for v in choice.box], outline=CHOSEN, width=4)
    return _with_caption(photo, lines)


def _with_caption(photo: Image.Image, lines: list[str]) -> Image.Image:
    """The photo above its lines of text, broken to its width."""
    room = max(30, photo.width // 6)
    wrapped = [part for line in lines[:9] for part in textwrap.wrap(line, room, break_on_hyphens=False)]
    canvas = Image.new("RGB", (photo.width, photo.height + 15 * len(wrapped) + 8), PAPER)
    canvas.paste(photo)
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(wrapped):
        draw_text(draw, (6, photo.height + 4 + 15 * i), text, INK, 12)
    return canvas


def _sheet(cache: Cache, photos: PhotoFolder, chooser: Subjects, count: int) -> Image.Image:
    """Photos most worth a look, side by side."""
    subjects, faces = read_table(cache.subjects), read_table(cache.faces)
    rank = subjects.assign(
        clear=subjects["status"].isin(["ok", "given", "decided"]),
        easy=~subjects["image"].isin(faces["image"][faces["rung"] != "as_is"]),
        faces=-subjects["image"].map(faces.groupby("image")["group"].nunique()).fillna(0),
    )
    rank = rank[rank["status"] != "unreadable"].sort_values(["clear", "easy", "faces", "image"])
    if rank.empty:
        raise UsageError(f"'{cache.root}' has no photo that could be drawn.")
    pictures = [draw_photo(photos, image, chooser, 420) for image in rank["image"][:count]]
    columns = min(6, len(pictures))
    width = max(p.width for p in pictures) + 8
    rows = math.ceil(len(pictures) / columns)
    heights = [max(p.height for p in pictures[r * columns : (r + 1) * columns]) + 8 for r in range(rows)]
    canvas = Image.new("RGB", (columns * width, sum(heights)), PAPER)
    tops = np.cumsum([0, *heights])
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (i % columns * width, int(tops[i // columns])))
    return canvas
