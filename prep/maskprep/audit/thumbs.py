"""Small pictures beside the page: each crop, and what its matte removes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import Progress
from maskprep.crops import FOREGROUND, GROUND_KEPT, invert
from maskprep.dataset import DEFAULT_VIEW, View, open_view
from maskprep.photos import Pixels
from maskprep.store import Cache, read_table, shard_path

THUMBS = "thumbs"
"""Folder of the pictures, in the folder of the audit."""

SIDE, QUALITY = 160, 82
"""Longer side of a picture, pixels, and the JPEG quality of a crop."""

TINT, OPACITY = (214, 0, 110), 0.6
"""Colour and opacity of what a matte removes."""


@dataclass(frozen=True)
class Thumbs:
    """The pictures of one view; empty without a view.

    Args:
        crops: image -> name of its crop's JPEG, without the suffix.
        mattes: image -> name of its matte's PNG, without the suffix; only crops with a matte that removes something.
        transforms: image -> crop pixel to photo pixel, float64 [2, 3]; the images of ``mattes``.
        size: height and width of a crop, pixels.
    """

    crops: dict[str, str]
    mattes: dict[str, str]
    transforms: dict[str, NDArray[np.float64]]
    size: tuple[int, int]


def write_thumbs(cache: Cache, folder: Path, progress: Progress) -> Thumbs:
    """Write the pictures of the view ``face``, else of the first one, to ``folder``. Names follow from the crop's key
    and the matte's sums, so that only new pictures are written; those that nothing names any more are removed."""
    names = cache.views()
    if not names:
        return Thumbs({}, {}, {}, (0, 0))
    view = open_view(cache.root, DEFAULT_VIEW if DEFAULT_VIEW in names else names[0])
    crops = [f"{key[:2]}/{key}" for key in view.table["key"]]
    matted = {row: name for row, name in enumerate(_matte_names(view, crops)) if name}
    there = {f"{p.parent.name}/{p.name}" for p in folder.glob("*/*.*")}
    tasks = [(row, f"{name}.jpg") for row, name in enumerate(crops)]
    tasks = [task for task in [*tasks, *((row, f"{name}.png") for row, name in matted.items())] if task[1] not in there]
    progress.start("thumbs", len(tasks))
    for start in range(0, len(tasks), 64):
        part = tasks[start : start + 64]
        for name, picture in _pictures(view, part):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part_file = path.with_name(path.name + ".tmp")
            picture.save(part_file, **({"format": "PNG"} if path.suffix == ".png" else _JPEG))
            part_file.replace(path)  # no fsync: what is lost can be made again
        progress.advance(len(part))
    for stale in there.difference({f"{name}.jpg" for name in crops}, {f"{name}.png" for name in matted.values()}):
        (folder / stale).unlink(missing_ok=True)
    images = view.table["image"].tolist()
    transforms = _transforms(cache, view, matted)
    return Thumbs(
        dict(zip(images, crops, strict=True)),
        {images[row]: name for row, name in matted.items()},
        {images[row]: transform for row, transform in transforms.items()},
        view.size,
    )


_JPEG: dict[str, Any] = {"format": "JPEG", "quality": QUALITY}


def _pictures(view: View, tasks: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Image.Image]]:
    scale = min(1.0, SIDE / max(view.size))
    size = (max(1, round(view.size[1] * scale)), max(1, round(view.size[0] * scale)))
    for row, name in tasks:
        if name.endswith(".jpg"):
            picture = Image.fromarray(view.gather([row])[0])
        else:
            picture = Image.fromarray(removed(view.gather_alpha([row])[0]))
        yield name, picture if scale == 1 else picture.resize(size, Image.Resampling.BOX)


def removed(alpha: NDArray[np.uint8]) -> Pixels:
    """A layer over the crop that tints what its matte removes.

    Args:
        alpha: uint8 [h, w], 255 = the subject.

    Returns:
        uint8 [h, w, 4] RGBA.
    """
    layer = np.empty((*alpha.shape, 4), np.uint8)
    layer[..., :3] = TINT
    layer[..., 3] = np.rint((255 - alpha.astype(np.float32)) * OPACITY).astype(np.uint8)
    return layer


def _matte_names(view: View, crops: list[str]) -> Iterator[str]:
    """For each row the name of its matte's picture, empty where the matte removes nothing or there is none."""
    sums = view.table[list(FOREGROUND)].astype(object).itertuples(index=False)
    for name, status, values in zip(crops, view.table["matte"], sums, strict=True):
        removes = isinstance(status, str) and status not in GROUND_KEPT
        yield f"{name}-{hashlib.sha256(repr((status, *values)).encode()).hexdigest()[:8]}" if removes else ""


def _transforms(cache: Cache, view: View, rows: Iterable[int]) -> dict[int, NDArray[np.float64]]:
    """Row of the view's table -> transform from crop to photo."""
    wanted = view.table.iloc[list(rows)]
    made: dict[int, NDArray[np.float64]] = {}
    for number, members in wanted.groupby("shard"):
        table = read_table(shard_path(cache.view(view.name), int(str(number))), ["row", "transform"])
        known = dict(zip(table["row"].tolist(), table["transform"], strict=True))
        rows_of = zip(members.index.tolist(), members["row"].tolist(), strict=True)
        made |= {i: invert(np.reshape(known[row], (2, 3))) for i, row in rows_of}
    return made
