"""Tables that list photos: reading them, finding the one that does, and matching its rows to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep.base import UserError, counted, csv_files, missing_extra, nfc, some
from maskprep.labels import columns

SUFFIXES = (".csv", ".tsv", ".xlsx")
"""Tables that may list photos."""

MIRRORED = frozenset(("images", "labels", "annotations", "jpegimages", "xml"))
"""Folders that hold photos and annotations side by side, in lower case: images/train/1.jpg, labels/train/1.txt."""


@dataclass(frozen=True)
class Listing:
    """A table that lists photos: its rows, all cells text, and the column that says which photo a row is about."""

    path: Path
    frame: pd.DataFrame
    column: str


def read_list(path: Path) -> pd.DataFrame:
    """A CSV file, workbook or file of JSON lines as text columns, indexed by line; a column without a name gets a
    number. Only empty cells are missing: a class may be called ``None`` or ``NA``.

    Raises:
        UserError: it cannot be read, naming the file.
    """
    if path.suffix == ".jsonl":
        try:
            lines = {i: json.loads(text) for i, text in enumerate(path.read_bytes().splitlines(), 1) if text.strip()}
            records = [{str(k): _text(v) for k, v in row.items()} for row in lines.values()]
        except (OSError, ValueError, AttributeError) as error:
            hint = "Each line must be one object."
            raise UserError(f"Cannot read '{path}' as lines of JSON: {error}.", hint) from error
        return pd.DataFrame(records, dtype="str", index=list(lines))
    table = csv_files.of_lines(path, _sheet(path)) if path.suffix.lower() == ".xlsx" else csv_files.read_csv(path)
    if not table.rows:
        raise UserError(f"Cannot use '{path}': it has no lines but the header.", csv_files.HINT)
    names = [name or f"column {i + 1}" for i, name in enumerate(table.names)]
    rows = [[cell or None for cell in cells] for _, cells in table.rows]
    return pd.DataFrame(rows, columns=names, dtype="str", index=[line for line, _ in table.rows])


def _sheet(path: Path) -> list[tuple[int, list[str]]]:
    """The first sheet of a workbook."""
    try:
        import openpyxl
    except ImportError as error:
        raise missing_extra("openpyxl", "xlsx") from error
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = list(book.worksheets[0].iter_rows(values_only=True))
        book.close()
    except Exception as error:  # its errors are of many kinds: zipfile, xml, KeyError
        raise UserError(f"Cannot read '{path}' as an Excel workbook: {error}.", "Save it as CSV.") from error
    return [(i, [_text(cell) or "" for cell in row]) for i, row in enumerate(rows, 1)]


def _text(cell: object) -> str | None:
    if cell is None:
        return None
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def listings(root: Path, images: Sequence[str]) -> tuple[list[Listing], list[str]]:
    """The tables in a folder that list its photos, and sentences about those that do not.

    Which column names the photos is told by its name, or by its cells: half of them must be names of photos, with or
    without their suffix. A table whose first line names one already has no header.
    """
    photos = PhotoNames(root, images)
    notes: list[str] = []
    if (listing := _metadata(root, notes)) is not None:
        return [listing], notes
    found: list[Listing] = []
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith((".", "~"))):
        try:
            frame = read_list(path)
        except UserError as error:
            notes.append(f"'{path.name}' is not used: {error.message}")
            continue
        if any(map(photos.names, frame.columns)):  # the first line is no header
            names = [f"column {i + 1}" for i in range(frame.shape[1])]
            header = pd.DataFrame([list(frame.columns)], columns=names, dtype="str", index=[1])
            frame = pd.concat([header, frame.set_axis(names, axis=1)])
        named = columns.find(list(frame.columns), "path")
        shares = {name: _share(frame[name], photos) for name in sorted(frame.columns, key=lambda name: name != named)}
        best = next((name for name, share in shares.items() if share >= 0.5), named)
        if best is not None and shares[best] > 0:
            found.append(Listing(path, frame, best))
        elif not (named is None and frame.shape[1] < 2):
            first = ", ".join(str(cell) for cell in frame.iloc[0].tolist()[:4])
            notes.append(
                f"'{path.name}' names none of the photos and is not used (its first row: {first}). Name the column "
                "that does in maskprep.yaml: source: {csv: " + path.name + ", columns: {path: COLUMN}}."
            )
    return found, notes


def _metadata(root: Path, notes: list[str]) -> Listing | None:
    """The metadata.csv or metadata.jsonl of a Hugging Face image folder, at the root or one in each split's folder."""
    frames, paths = [], []
    for path in sorted((*root.glob("metadata.*"), *root.glob("*/metadata.*"))):
        if path.suffix not in (".csv", ".jsonl"):
            continue
        try:
            frame = read_list(path)
        except UserError as error:
            notes.append(f"'{path.relative_to(root)}' is not used: {error.message}")
            continue
        if "file_name" in frame.columns:
            home = path.parent.relative_to(root)
            frame["file_name"] = [(home / str(name)).as_posix() for name in frame["file_name"]]
            frames.append(frame)
            paths.append(path)
    return Listing(paths[0], pd.concat(frames), "file_name") if frames else None


def _share(cells: pd.Series[Any], photos: PhotoNames) -> float:
    """Share of the cells that name a photo."""
    names = [PurePosixPath(nfc(str(c).replace("\\", "/"))).name for c in cells.dropna()]
    return sum(map(photos.names, names)) / max(1, len(cells))


class PhotoNames:
    """The photos of a folder by the names that lists and annotation files give them."""

    def __init__(self, root: Path, images: Sequence[str]) -> None:
        self.root = root
        self._prefix = nfc(root.resolve().as_posix()) + "/"
        self._exact = {nfc(image): image for image in images}
        self._short: dict[str, list[str]] = {}  # file names, with and without suffix, as they are and without case
        for path in map(PurePosixPath, self._exact):
            for short in {path.name, path.stem, path.name.casefold(), path.stem.casefold()}:
                self._short.setdefault(short, []).append(self._exact[str(path)])

    def find(self, text: str, folders: bool = True) -> str | None:
        """The photo that a path means: absolute, relative to the folder or to one above or below it, as far as only
        one photo fits. A bare name need have neither suffix nor case. A path through another folder is another photo;
        without ``folders``, its name counts.
        """
        path = nfc(text.strip().replace("\\", "/")).removeprefix(self._prefix).removeprefix("./")
        if path in self._exact:
            return self._exact[path]
        name = PurePosixPath(path).name
        alike = self._short.get(name, [])
        if within := [image for image in alike if f"/{path}".endswith(f"/{nfc(image)}")]:
            return max(within, key=len)
        found = [image for image in alike if f"/{nfc(image)}".endswith(f"/{path}")]
        if not found and path == name:
            found = alike or self._short.get(name.casefold(), [])
        elif not found and not folders:
            found = [image for image in alike if PurePosixPath(nfc(image)).name == name]
        return found[0] if len(found) == 1 else None

    def names(self, name: str) -> bool:
        """Whether a file name, with suffix or without, is that of a photo, whatever the case."""
        return name.casefold() in self._short

    def beside(self, file: Path) -> str | None:
        """The photo that an annotation file of the same name is about: of several, the one in the mirrored folder."""

        def place(path: str) -> list[str]:
            return [part for part in PurePosixPath(path).with_suffix("").parts if part.lower() not in MIRRORED]

        name = nfc(file.relative_to(self.root).as_posix())
        stem = PurePosixPath(name).stem
        found = [image for image in self._short.get(stem, []) if PurePosixPath(nfc(image)).stem == stem]
        if len(found) > 1:
            found = [image for image in found if place(nfc(image)) == place(name)]
        return found[0] if len(found) == 1 else None


def match(root: Path, listing: Listing, images: Sequence[str]) -> tuple[list[int], list[str]]:
    """Row number of each image in a list, -1 for none, and sentences for the user about rows and photos without a
    counterpart.

    Raises:
        UserError: two different rows for one photo.
    """
    path, frame = listing.path, listing.frame
    photos = PhotoNames(root, images)
    row_of: dict[str, int] = {}
    lost: list[str] = []
    for i, cell in enumerate(map(str, frame[listing.column])):
        image = photos.find(cell)
        if image is None:
            lost.append(cell)
        elif image in row_of and not frame.iloc[i].equals(frame.iloc[row_of[image]]):
            lines = f"lines {frame.index[row_of[image]]} and {frame.index[i]}"
            raise UserError(f"{path.name} has two different rows for '{image}' ({lines}).", "Keep one of them.")
        else:
            row_of.setdefault(image, i)
    notes = []
    if lost:
        notes.append(
            f"{counted(len(lost), 'row')} of {path.name} for photos that are not in the folder ({some(lost)})."
        )
    if unlisted := [image for image in images if image not in row_of]:
        notes.append(
            f"{counted(len(unlisted), 'photo')} without a label, not listed in {path.name} ({some(unlisted)})."
        )
    return [row_of.get(image, -1) for image in images], notes
