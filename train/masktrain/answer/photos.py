"""The photos that are asked about: files, lists and folders of them, pictures in memory, or the images of a cache."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import UsageError, UserError, keep_out
from maskprep.dataset import View, open_view
from maskprep.labels import SPLITS
from maskprep.photos import SUFFIXES
from masktrain.answer.model import Model
from masktrain.data import names as tables

INFO = "info.csv"
STDIN = "-"
LIST_SUFFIXES = (".csv", ".txt")
PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that a PNG file holds as they are."""

Picture = NDArray[np.uint8] | Image.Image
"""uint8 [h, w, 3] RGB, upright; or an image of Pillow, turned as its EXIF data say."""


@dataclass(frozen=True)
class Request:
    """The photos that are to be answered for.

    Args:
        views: their crops; of several views the mean counts, of probabilities or logits (``mean``).
        rows: ImageID and image of each (None: there is none).
        path: where the file of an image is.
    """

    views: tuple[View, ...]
    rows: list[tuple[str, str | None]]
    path: Callable[[str], Path]
    mean: str = "probability"


def _keep_beside(outputs: Mapping[str, Path | None], folders: Iterable[Path]) -> None:
    """No table is written into a folder with photos that were named, and no picture there or below."""
    for folder in folders:
        for option, out in outputs.items():
            if out is not None and (option == "--draw" or out.resolve().parent == folder.resolve()):
                keep_out(out, folder, option=option)


def is_list(source: Path) -> bool:
    """Whether a source names photos instead of being one."""
    return str(source) == STDIN or (source.suffix.lower() in LIST_SUFFIXES and source.is_file())


def read_list(source: Path) -> tuple[list[str], Path]:
    """The photos that a list names, and the folder to which their paths are relative.

    Args:
        source: ``-`` for standard input or a text file, one path a line; or a CSV with a column ImageID, image or file.
            Paths in a file are relative to it, those on standard input to where the command runs.

    Raises:
        UserError: an empty list, or a table without such a column.
    """
    stdin = str(source) == STDIN
    if stdin:
        names = [line.rstrip("\r\n") for line in sys.stdin]
    elif source.suffix.lower() == ".csv":
        table = tables.read_csv(source)
        names = table[tables.name_column(table, source)].tolist()
    else:
        try:
            names = source.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source} cannot be read: {error}") from error
    if not (names := [name for name in names if name.strip()]):
        raise UserError(f"{'Standard input' if stdin else source} names no photos.")
    return names, Path() if stdin else source.parent


def link(names: Iterable[str], base: Path, folder: Path) -> tuple[list[tuple[str, str | None]], dict[str, Path]]:
    """Link photos into a folder that the preprocessing can read, by number: equal names stay apart.

    Returns:
        For each name its link (None where there is no such photo), and for each link the photo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str | None]] = []
    links: dict[Path, str] = {}
    for name in names:
        real = (base / name.strip()).resolve()
        if not real.is_file():
            rows.append((name, None))
            continue
        if real not in links:
            # what a file holds decides, not what it is called: any other suffix would be passed over
            suffix = real.suffix.lower() if real.suffix.lower() in SUFFIXES else ".jpg"
            links[real] = f"{len(links):08d}{suffix}"
            try:
                (folder / links[real]).symlink_to(real)
            except (OSError, NotImplementedError):  # file systems and users without links
                shutil.copy2(real, folder / links[real])
        rows.append((name, links[real]))
    return rows, {image: real for real, image in links.items()}


def listed(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture or several, also as one array [n, h, w, 3], as a list."""
    if isinstance(pictures, Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim != 4):
        return [pictures]
    return list(pictures)


def save(pictures: Sequence[Picture], folder: Path) -> list[tuple[str, str | None]]:
    """Write pictures in memory as files that the preprocessing reads, without loss; their ImageIDs are 0, 1, ...

    Raises:
        UsageError: an array of another form.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str | None]] = []
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Image.Image):
            if not isinstance(picture, np.ndarray):
                raise UsageError(f"Picture {number} is a {type(picture).__name__}.", "Give uint8 arrays or PIL images.")
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                form = f"{picture.dtype} {list(picture.shape)}"
                raise UsageError(f"Picture {number} is an array {form}.", "Give uint8 [height, width, 3], RGB.")
            picture = Image.fromarray(picture)
        turned = picture.getexif()
        if picture.mode not in PNG:
            picture = picture.convert("RGB")
            picture.info.pop("icc_profile", None)  # that of CMYK, say, does not fit what it has become
        rows.append((str(number), f"{number:08d}.png"))
        picture.save(folder / f"{number:08d}.png", exif=turned, compress_level=1)
    return rows


def prepare(
    source: Path | Sequence[Picture], folder: Path, trained: Model, workers: int, outputs: Mapping[str, Path | None]
) -> Request:
    """Raw photos, prepared in a temporary cache with the settings that the run has kept."""
    from maskprep.pipeline import prepare as make_cache

    photos, rows = folder / "photos", None
    paths: dict[str, Path] = {}
    if not isinstance(source, Path):
        rows = save(source, photos)
    elif source.is_dir():
        photos = source
    else:
        names, base = read_list(source) if is_list(source) else ([source.name], source.parent)
        rows, paths = link(names, base, photos)
        if not paths:
            raise UserError(f"None of the {len(rows)} photos that were named exists, for example {rows[0][0]}.")
        given = {(base / name.strip()).parent.resolve() for name, image in rows if image is not None}
        _keep_beside(outputs, given | {real.parent for real in paths.values()})
    spec = trained.spec
    for wanted in spec.inputs:
        make_cache(photos, folder / "cache", spec.settings, wanted.view, workers, matted=wanted.matted)
    pictures = open_view(folder / "cache", spec.view)
    rows = _photo_rows(pictures, photos) if rows is None else rows
    return Request((pictures,), rows, lambda image: paths.get(image, photos / image))


def cache_rows(pictures: View, split: str | None) -> list[tuple[str, str | None]]:
    """ImageID and image of every image of a cache, or of one split."""
    images = [(i, s) for t in (pictures.table, pictures.missing) for i, s in zip(t["image"], t["split"], strict=True)]
    if split is not None:
        if split not in SPLITS:
            raise UsageError(f"There is no split '{split}'.", f"Choose one of {', '.join(SPLITS)}.")
        images = [(i, s) for i, s in images if s == split]
    return _named(sorted(i for i, _ in images))


def _photo_rows(pictures: View, source: Path) -> list[tuple[str, str | None]]:
    """ImageID and image (None when there is no such photo) for raw photos, by their info.csv if they have one."""
    images = sorted([*pictures.table["image"], *pictures.missing["image"]])
    if not (source / INFO).is_file():
        return _named(images)
    table = tables.read_csv(source / INFO)
    names = tables.Names(images)
    rows: list[tuple[str, str | None]] = []
    for name in table[tables.name_column(table, source / INFO)]:
        found = names.find(name)
        if len(found) > 1:
            raise UserError(f"{source / INFO}: several photos are called {name}: {tables.listed(found)}.")
        rows.append((name, found[0] if found else None))
    return rows


def _named(images: list[str]) -> list[tuple[str, str | None]]:
    """File names when all images lie in one folder, otherwise paths."""
    flat = len({str(PurePosixPath(i).parent) for i in images}) <= 1
    return [(PurePosixPath(i).name if flat else i, i) for i in images]
