"""Boxes of faces that come with the photos: Pascal VOC, COCO, YOLO, or a table with four columns of corners.

Of several boxes of one photo the largest is the subject, and where boxes carry classes, its class is the photo's.
Boxes are in pixels of the upright photo.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep.base import BOX_COLUMNS, nfc, read_yaml
from maskprep.errors import UsageError
from maskprep.labels.columns import plain

COLUMNS = BOX_COLUMNS
"""Of images.parquet: the subject's box, null for photos without one; ``boxes`` beside them counts all of a photo."""

CORNERS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
"""Names of the columns of a table, as :func:`maskprep.labels.columns.plain` writes them."""

MIRRORED = frozenset(("images", "labels", "annotations", "jpegimages", "xml"))
"""Folders that hold photos and annotations side by side, in lower case: images/train/1.jpg, labels/train/1.txt."""

MOST_BYTES = 256 << 20
"""Files larger than this are not read as annotations."""


@dataclass(frozen=True)
class Box:
    """One box: its corners in pixels of the upright photo, and the class it carries (None without)."""

    corners: tuple[float, float, float, float]
    label: str | None = None

    @property
    def area(self) -> float:
        """Width by height."""
        x0, y0, x1, y1 = self.corners
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)


@dataclass
class Annotations:
    """The boxes of a photo folder.

    Args:
        boxes: image -> its boxes.
        kind: where they are from, in words; empty without any.
        files: that were read, relative to the photo folder.
        notes: sentences about files that could not be used.
    """

    boxes: dict[str, list[Box]] = field(default_factory=dict)
    kind: str = ""
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self, images: Sequence[str]) -> pd.DataFrame:
        """One row per image: the columns of :data:`COLUMNS`, ``boxes`` and ``class``."""
        rows = []
        for image in images:
            own = [box for box in self.boxes.get(image, []) if box.area > 0]
            largest = max(own, key=lambda box: box.area, default=None)
            corners = (None,) * 4 if largest is None else largest.corners
            label = None if largest is None else largest.label
            rows.append({**dict(zip(COLUMNS, corners, strict=True)), "boxes": len(own), "class": label})
        made = pd.DataFrame(rows, columns=[*COLUMNS, "boxes", "class"])
        made["boxes"] = made["boxes"].astype("Int64")
        made["class"] = made["class"].astype("str")
        return made.astype(dict.fromkeys(COLUMNS, "float64"))


def corner_columns(names: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of a table that hold the corners of boxes, None where it has none."""
    theirs = {plain(name): name for name in names}
    return next((tuple(theirs[n] for n in four) for four in CORNERS if all(n in theirs for n in four)), None)


def read(root: Path, images: Sequence[str]) -> Annotations:
    """The boxes of Pascal VOC, COCO or YOLO files in a photo folder; the first of these that names photos."""
    notes: list[str] = []
    chosen = Annotations()
    for reader in (_voc, _coco, _yolo):
        found = reader(root, images)
        notes += found.notes
        if not chosen.boxes and any(found.boxes.values()):
            chosen = found
    chosen.notes = notes
    return chosen


def _holder(name: str, stems: dict[str, list[str]]) -> str | None:
    """The image that an annotation file is about: of several with its stem, the one in the mirrored folder."""

    def place(path: str) -> list[str]:
        return [part for part in PurePosixPath(path).with_suffix("").parts if part.lower() not in MIRRORED]

    holders = stems.get(PurePosixPath(nfc(name)).stem, [])
    if len(holders) > 1:
        holders = [image for image in holders if place(nfc(image)) == place(nfc(name))]
    return holders[0] if len(holders) == 1 else None


def _by_stem(images: Sequence[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for image in images:
        stems.setdefault(PurePosixPath(nfc(image)).stem, []).append(image)
    return stems


def _files(root: Path, suffix: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(root.rglob(f"*{suffix}")):
        if path.is_file() and not path.name.startswith(".") and path.stat().st_size <= MOST_BYTES:
            yield path, path.relative_to(root).as_posix()


def _voc(root: Path, images: Sequence[str]) -> Annotations:
    """One XML file per photo, of the same name, anywhere in the folder."""
    found, stems = Annotations(kind="Pascal VOC files"), _by_stem(images)
    for path, name in _files(root, ".xml"):
        image = _holder(name, stems)
        if image is None:
            continue
        try:
            data = path.read_bytes()
            if any(word in data.replace(b"\0", b"") for word in (b"<!DOCTYPE", b"<!ENTITY")):
                raise ValueError("it declares entities")
            tree = ET.fromstring(data)
            names = ("xmin", "ymin", "xmax", "ymax")
            boxes = [
                Box(_numbers([_text(item, f"bndbox/{c}") for c in names]), _text(item, "name"))
                for item in tree.iter("object")
            ]
        except (OSError, ET.ParseError, ValueError) as error:
            found.notes.append(f"'{name}' is not used: {error}.")
            continue
        if boxes:
            found.boxes[image] = boxes
            found.files.append(name)
    return found


def _text(item: ET.Element, path: str) -> str:
    text = item.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"an object has no {path}")
    return text.strip()


def _numbers(cells: Sequence[Any]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(cell) for cell in cells)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("a box has a number that is not finite")
    return (x0, y0, x1, y1)


def _coco(root: Path, images: Sequence[str]) -> Annotations:
    """JSON files with the lists images, annotations and categories."""
    found = Annotations(kind="COCO files")
    stems = _by_stem(images)
    for path, name in _files(root, ".json"):
        try:
            data = json.loads(path.read_bytes())
            if not isinstance(data, dict) or not {"images", "annotations"} <= data.keys():
                continue
            classes = {c["id"]: str(c["name"]) for c in data.get("categories", [])}
            names = {i["id"]: PurePosixPath(nfc(str(i["file_name"]).replace("\\", "/"))) for i in data["images"]}
            rows = [
                (names[a["image_id"]], _numbers(a["bbox"]), classes.get(a.get("category_id")))
                for a in data["annotations"]
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found.notes.append(f"'{name}' is not used: {type(error).__name__} {error}.")
            continue
        for file, (x, y, width, height), label in rows:
            alike = [i for i in stems.get(file.stem, []) if nfc(i).endswith(file.name)]
            holders = [i for i in alike if f"/{nfc(i)}".endswith(f"/{file}")] or alike
            if len(holders) == 1:
                found.boxes.setdefault(holders[0], []).append(Box((x, y, x + width, y + height), label))
        found.files.append(name)
    return found


def _yolo(root: Path, images: Sequence[str]) -> Annotations:
    """One text file per photo, of the same name: class and centre, width and height relative to the photo."""
    found, stems = Annotations(kind="YOLO files"), _by_stem(images)
    names = _yolo_names(root)
    for path, name in _files(root, ".txt"):
        image = _holder(name, stems)
        if image is None:
            continue
        try:
            rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            first = [(int(row[0]), _numbers(row[1:5])) for row in rows[:1]]
        except (OSError, ValueError, UnicodeDecodeError):
            continue  # a text about the photo
        if not first:
            continue
        try:
            if any(len(row) not in (5, 6) for row in rows):
                raise ValueError("a line is no box: class, centre, width, height and perhaps a confidence")
            cells = [(int(row[0]), _numbers(row[1:5])) for row in rows]
            if any(not -0.05 <= n <= 1.05 for _, box in cells for n in box):
                raise ValueError("a box is not relative to its photo, from 0 to 1")
        except ValueError as error:
            found.notes.append(f"'{name}' is not used: {error}.")
            continue
        size = _upright_size(root / image)
        if size is None:
            continue
        width, height = size
        for number, (cx, cy, w, h) in cells:
            corners = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
            found.boxes.setdefault(image, []).append(Box(corners, names.get(number, str(number))))
        found.files.append(name)
    return found


def _yolo_names(root: Path) -> dict[int, str]:
    """Names of the classes by classes.txt, obj.names or data.yaml."""
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
