"""Boxes of faces that come with the photos: Pascal VOC, COCO, YOLO, or a table with four columns of corners.

Of several boxes of one photo the largest is the subject, and where boxes carry classes, its class is the photo's.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from maskprep.base import BOX_COLUMNS, UsageError, read_yaml
from maskprep.base import Box as Corners
from maskprep.labels import columns
from maskprep.labels.lists import Listing, PhotoNames, match

CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
"""Names of the columns of a table, as :func:`maskprep.labels.columns.plain` writes them."""

MOST_BYTES = 256 << 20
"""Files larger than this are not read as annotations."""


@dataclass(frozen=True)
class Box:
    """Corners in pixels of the upright photo, and the class (None without)."""

    corners: Corners
    label: str | None = None

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.corners
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)


Reader = Callable[[Path, PhotoNames], list[tuple[str, Box]] | None]
"""The boxes of a file, each with its image; None of a file of another kind or about no photo. A damaged one raises."""


@dataclass
class Annotations:
    """The boxes of a photo folder.

    Args:
        kind: where they are from, in words; empty without any.
        boxes: image -> its boxes.
        files: that were read, relative to the photo folder.
        notes: sentences about files that could not be used.
    """

    kind: str = ""
    boxes: dict[str, list[Box]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, boxes: Iterable[tuple[str, Box]]) -> None:
        for image, box in boxes:
            self.boxes.setdefault(image, []).append(box)

    def table(self, images: Sequence[str]) -> pd.DataFrame:
        """One row per image: BOX_COLUMNS (null without a box), ``boxes`` (how many) and ``class``."""
        rows = []
        for image in images:
            own = [box for box in self.boxes.get(image, []) if box.area > 0]
            largest = max(own, key=lambda box: box.area, default=None)
            rows.append((*(largest.corners if largest else (None,) * 4), len(own), largest.label if largest else None))
        types = dict.fromkeys(BOX_COLUMNS, "float64") | {"boxes": "Int64", "class": "str"}
        return pd.DataFrame(rows, columns=list(types)).astype(types)


def corner_columns(frame: pd.DataFrame) -> tuple[str, ...] | None:
    """The columns of a table that hold the corners of boxes, None where it has none."""
    theirs = {columns.plain(name): name for name in frame.columns}
    return next((tuple(theirs[n] for n in four) for four in CORNERS if all(n in theirs for n in four)), None)


def read_table(root: Path, images: Sequence[str], listing: Listing) -> Annotations:
    """The boxes of a table with one row per box."""
    frame, corners = listing.frame, corner_columns(listing.frame)
    assert corners is not None  # that is how it was chosen
    label = columns.find([name for name in frame.columns if name not in (listing.column, *corners)], "class")
    photos = replace(listing, frame=frame[[listing.column]].drop_duplicates())
    rows, notes = match(root, photos, images)
    made = Annotations(f"columns {', '.join(corners)}", files=[listing.path.name], notes=notes)
    numbers = frame[list(corners)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    texts = [None] * len(frame) if label is None else [None if pd.isna(v) else str(v) for v in frame[label]]
    groups, names = frame.groupby(listing.column, sort=False).indices, photos.frame[listing.column].tolist()
    for image, row in zip(images, rows, strict=True):
        for at in groups[names[row]] if row >= 0 else ():
            x0, y0, x1, y1 = numbers[at].tolist()
            if math.isnan(x0 + y0 + x1 + y1):
                made.notes.append(f"{listing.path.name}: a box of '{image}' does not have four numbers.")
            else:
                made.add([(image, Box((x0, y0, x1, y1), texts[at]))])
    return made


def read_files(root: Path, images: Sequence[str]) -> Annotations:
    """The boxes of Pascal VOC, COCO or YOLO files in a photo folder; the first of these that names photos."""
    photos = PhotoNames(root, images)
    yolo = partial(_yolo, _class_names(root))
    formats: tuple[tuple[str, str, Reader], ...] = (
        ("Pascal VOC files", ".xml", _voc),
        ("COCO files", ".json", _coco),
        ("YOLO files", ".txt", yolo),
    )
    made = [_read_format(root, photos, *each) for each in formats]
    chosen = next((one for one in made if one.boxes), Annotations())
    chosen.notes = [note for one in made for note in one.notes]
    return chosen


def _read_format(root: Path, photos: PhotoNames, kind: str, suffix: str, reader: Reader) -> Annotations:
    made = Annotations(kind)
    for path in sorted(root.rglob(f"*{suffix}")):
        if not path.is_file() or path.name.startswith(".") or path.stat().st_size > MOST_BYTES:
            continue
        name = path.relative_to(root).as_posix()
        try:
            boxes = reader(path, photos)
        except (OSError, ET.ParseError, ValueError) as error:
            made.notes.append(f"'{name}' is not used: {error}.")
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            made.notes.append(f"'{name}' is not used: {type(error).__name__} {error}.")
        else:
            if boxes is not None:
                made.add(boxes)
                made.files.append(name)
    return made


def _numbers(cells: Iterable[Any]) -> Corners:
    x0, y0, x1, y1 = (float(cell) for cell in cells)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("a box has a number that is not finite")
    return (x0, y0, x1, y1)


def _voc(path: Path, photos: PhotoNames) -> list[tuple[str, Box]] | None:
    """One XML file per photo, of the same name, anywhere in the folder."""

    def text(item: ET.Element, tag: str) -> str:
        if not (found := (item.findtext(tag) or "").strip()):
            raise ValueError(f"an object has no {tag}")
        return found

    if (image := photos.beside(path)) is None:
        return None
    data = path.read_bytes()
    if any(word in data.replace(b"\0", b"") for word in (b"<!DOCTYPE", b"<!ENTITY")):
        raise ValueError("it declares entities")
    tags = [f"bndbox/{name}" for name in ("xmin", "ymin", "xmax", "ymax")]
    objects = ET.fromstring(data).iter("object")
    return [(image, Box(_numbers(text(o, tag) for tag in tags), text(o, "name"))) for o in objects] or None


def _coco(path: Path, photos: PhotoNames) -> list[tuple[str, Box]] | None:
    """A JSON file with the lists images, annotations and categories."""
    data = json.loads(path.read_bytes())
    if not isinstance(data, dict) or not {"images", "annotations"} <= data.keys():
        return None
    classes = {c["id"]: str(c["name"]) for c in data.get("categories", [])}
    images = {i["id"]: photos.find(str(i["file_name"]), folders=False) for i in data["images"]}
    boxes: list[tuple[str, Box]] = []
    for row in data["annotations"]:
        x, y, width, height = _numbers(row["bbox"])
        box = Box((x, y, x + width, y + height), classes.get(row.get("category_id")))
        if (image := images[row["image_id"]]) is not None:
            boxes.append((image, box))
    return boxes


def _yolo(classes: dict[int, str], path: Path, photos: PhotoNames) -> list[tuple[str, Box]] | None:
    """One text file per photo, of the same name: class and centre, width and height relative to the photo."""
    if (image := photos.beside(path)) is None:
        return None
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        _ = int(rows[0][0]), _numbers(rows[0][1:5])
    except (OSError, ValueError, IndexError):
        return None  # a text about the photo
    if any(len(row) not in (5, 6) for row in rows):
        raise ValueError("a line is not a box of class, centre x and y, width, height and perhaps a confidence")
    cells = [(int(row[0]), _numbers(row[1:5])) for row in rows]
    if any(not -0.05 <= n <= 1.05 for _, box in cells for n in box):
        raise ValueError("a box is not relative to its photo, from 0 to 1")
    if (size := _upright_size(photos.root / image)) is None:
        return None
    width, height = size
    return [
        (image, Box(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height), label))
        for label, (x, y, w, h) in ((classes.get(number, str(number)), box) for number, box in cells)
    ]


def _class_names(root: Path) -> dict[int, str]:
    """Names of YOLO's classes by classes.txt, obj.names or data.yaml."""
    for file in ("classes.txt", "obj.names", "labels/classes.txt"):
        if (root / file).is_file():
            lines = (root / file).read_text(encoding="utf-8", errors="replace").splitlines()
            return {i: line.strip() for i, line in enumerate(lines) if line.strip()}
    for file in ("data.yaml", "dataset.yaml"):
        if (root / file).is_file():
            try:
                data = read_yaml(root / file)
            except UsageError:
                return {}
            names = data.get("names", {}) if isinstance(data, dict) else {}
            pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else ())
            return {int(i): str(name) for i, name in pairs if str(i).isdecimal()}
    return {}


def _upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a photo once turned upright, by its header."""
    from PIL import Image

    try:
        with Image.open(path) as photo:
            turned = photo.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return photo.size[::-1] if turned else photo.size
    except (OSError, ValueError, SyntaxError):
        return None
