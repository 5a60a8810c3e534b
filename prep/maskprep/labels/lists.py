"""Tables that list photos (CSV, XLSX): reading them, finding the one that does, and matching its rows to files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep.base import csv_files, nfc, some
from maskprep.errors import UserError, missing_extra
from maskprep.labels import columns

SUFFIXES = (".csv", ".tsv", ".xlsx")
"""Tables that may list photos."""


@dataclass(frozen=True)
class Listing:
    """A table that lists photos.

    Args:
        path: the file.
        frame: its rows, all cells text.
        column: the one that says which photo a row is about.
    """

    path: Path
    frame: pd.DataFrame
    column: str


def read_list(path: Path) -> pd.DataFrame:
    """A CSV file or workbook as text columns; empty cells are missing, and a column without a name gets a number.

    The index is the line of the file at which a row begins.

    Nothing else is read into a cell: a class may be called ``None`` or ``NA``.

    Raises:
        UserError: it cannot be read, naming the file.
    """
    table = csv_files.of_lines(path, _sheet(path)) if path.suffix.lower() == ".xlsx" else csv_files.read_csv(path)
    names = [name or f"column {i + 1}" for i, name in enumerate(table.names)]
    if not table.rows:
        raise UserError(f"Cannot use '{path}': it has no lines but the header.", csv_files.HINT)
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
    return [(i, ["" if cell is None else _number(cell) for cell in row]) for i, row in enumerate(rows, 1)]


def _number(cell: object) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def listings(root: Path, images: Sequence[str]) -> tuple[list[Listing], list[str]]:
    """The tables in a folder that list its photos, and sentences about those that do not.

    Which column names the photos is told by its name, or by its cells: half of them must be names of photos, with or
    without their suffix. A table whose first line names one already has no header.
    """
    known = {key for image in images for key in _keys(image)}
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
        if any(str(name).casefold() in known for name in frame.columns):
            frame = _headless(frame)
        named = columns.find(list(frame.columns), "path")
        tried = [named, *(name for name in frame.columns if name != named)] if named else list(frame.columns)
        shares = {name: _share(frame[name], known) for name in tried}
        best = next((name for name in tried if shares[name] >= 0.5), None)
        if best is None and named is not None and shares[named] > 0:
            best = named
        if best is not None:
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
            frame = read_list(path) if path.suffix == ".csv" else _json_lines(path)
        except UserError as error:
            notes.append(f"'{path.relative_to(root)}' is not used: {error.message}")
            continue
        if "file_name" in frame.columns:
            home = path.parent.relative_to(root)
            frame["file_name"] = [(home / str(name)).as_posix() for name in frame["file_name"]]
            frames.append(frame)
            paths.append(path)
    return Listing(paths[0], pd.concat(frames), "file_name") if frames else None


def _json_lines(path: Path) -> pd.DataFrame:
    """One JSON object per line, its values as text."""
    try:
        lines = {i: json.loads(text) for i, text in enumerate(path.read_bytes().splitlines(), 1) if text.strip()}
        rows = [{str(k): None if v is None else _number(v) for k, v in row.items()} for row in lines.values()]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"Cannot read '{path}' as lines of JSON: {error}.", "Each line must be one object.") from error
    return pd.DataFrame(rows, dtype="str", index=list(lines))


def _headless(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose header is its first row; its columns get numbers."""
    names = [f"column {i + 1}" for i in range(frame.shape[1])]
    first = pd.DataFrame([list(frame.columns)], columns=names, dtype="str", index=[1])
    return pd.concat([first, frame.set_axis(names, axis=1)])


def _keys(image: str) -> Iterator[str]:
    """What a cell may call an image: its file name, with and without suffix, without case."""
    path = PurePosixPath(nfc(image))
    yield path.name.casefold()
    yield path.stem.casefold()


def _share(cells: pd.Series[Any], known: set[str]) -> float:
    """Share of the cells that name a photo."""
    names = [PurePosixPath(nfc(str(c).replace("\\", "/"))).name.casefold() for c in cells.dropna()]
    return sum(name in known for name in names) / max(1, len(cells))


def match(
    root: Path, path: Path, frame: pd.DataFrame, column: str, images: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Which row of a list each image has.

    Args:
        root: the photo folder; paths in the list may be absolute, relative to it or to a folder above or below it, as
            far as only one photo fits; a path through another folder is another photo.
        path: the list, for messages.
        frame: its rows.
        column: the one with the paths.
        images: all images.

    Returns:
        Row number per image, -1 for none, and sentences for the user about rows and photos without a counterpart.

    Raises:
        UserError: two different rows for one photo.
    """
    names: dict[str, list[str]] = {}
    loose: dict[str, list[str]] = {}
    for image in images:
        names.setdefault(nfc(PurePosixPath(image).name), []).append(image)
    for image in images:  # without suffix, and without case, where that is one photo
        path_of = PurePosixPath(nfc(image))
        for short in {path_of.stem, path_of.name.casefold(), path_of.stem.casefold()}:
            loose.setdefault(short, []).append(image)
    exact = {nfc(image): image for image in images}
    prefix = nfc(root.resolve().as_posix()) + "/"
    row_of: dict[str, int] = {}
    lost: list[str] = []
    for i, cell in enumerate(frame[column]):
        text = nfc(str(cell).strip().replace("\\", "/")).removeprefix(prefix).removeprefix("./")
        name = PurePosixPath(text).name
        image_of = exact.get(text) or _namesake(text, names.get(name, []))
        if image_of is None and name == text and len(alike := loose.get(name) or loose.get(name.casefold(), [])) == 1:
            image_of = alike[0]
        if image_of is None:
            lost.append(text)
        elif image_of in row_of and not frame.iloc[i].equals(frame.iloc[row_of[image_of]]):
            lines = f"lines {frame.index[row_of[image_of]]} and {frame.index[i]}"
            raise UserError(f"{path.name} has two different rows for '{image_of}' ({lines}).", "Keep one of them.")
        else:
            row_of.setdefault(image_of, i)
    notes = []
    if lost:
        notes.append(f"{len(lost)} rows of {path.name} name no photo in the folder ({some(lost)}).")
    if unlisted := [image for image in images if image not in row_of]:
        notes.append(f"{len(unlisted)} photos are not in {path.name} and have no label ({some(unlisted)}).")
    return [row_of.get(image, -1) for image in images], tuple(notes)


def _namesake(text: str, images: Sequence[str]) -> str | None:
    """The image that a path means, among those with its file name: the longest that the path ends with (it is given
    from further up), or the only one that ends with the path (it is given from further down)."""
    if within := [image for image in images if f"/{text}".endswith(f"/{nfc(image)}")]:
        return max(within, key=len)
    below = [image for image in images if f"/{nfc(image)}".endswith(f"/{text}")]
    return below[0] if len(below) == 1 else None
