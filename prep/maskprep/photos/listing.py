"""CSV files that list photos: reading them and matching their rows to files."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from maskprep.errors import UserError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "imageid", "image_id", "img")
"""Names of the column that says which photo a row is about, in lower case."""


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file (comma, semicolon or tab) as text columns; cells lose outer blanks, and empty ones are missing.

    Nothing else is read into a cell: a class may be called ``None`` or ``NA``.

    Raises:
        UserError: it cannot be read, naming the file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
        separator = max(",;\t", key=text.partition("\n")[0].count)
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True))
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{path}'.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Cannot read '{path}' as a CSV file: {reason}.", "Save it as UTF-8 with a header line."
        ) from error
    names = [name.strip() or f"column {i + 1}" for i, name in enumerate(lines[0])] if lines else []
    if len(lines) < 2 or len(set(names)) < len(names):
        reason = "it has no lines but the header" if len(lines) < 2 else "two columns have one name"
        raise UserError(f"Cannot use '{path}': {reason}.", "Save it as UTF-8 with a header line.")
    rows = [[cell.strip() or None for cell in line] for line in lines[1:] if any(cell.strip() for cell in line)]
    for row in rows:
        if any(cell is not None for cell in row[len(names) :]):
            raise UserError(f"'{path}' has a line with more cells than columns: {row[0]}.", "Quote cells with commas.")
    wide = [(row + [None] * len(names))[: len(names)] for row in rows]
    return pd.DataFrame(wide, columns=names, dtype="str")


def list_csvs(root: Path) -> list[Path]:
    """The CSV files in a folder whose header has a column for paths."""
    found = []
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith(".")):
        try:
            with path.open(encoding="utf-8-sig", errors="replace") as file:
                header = file.readline()
        except OSError:
            continue
        if any(cell.strip().strip('"').lower() in PATH_COLUMNS for cell in re.split("[,;\t]", header)):
            found.append(path)
    return found


def find_csv(root: Path) -> Path | None:
    """The one CSV in a folder whose header has a column for paths, if there is exactly one."""
    found = list_csvs(root)
    return found[0] if len(found) == 1 else None


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
    for image in images:
        names.setdefault(nfc(PurePosixPath(image).name), []).append(image)
    exact = {nfc(image): image for image in images}
    prefix = nfc(root.resolve().as_posix()) + "/"
    row_of: dict[str, int] = {}
    lost: list[str] = []
    for i, cell in enumerate(frame[column]):
        text = nfc(str(cell).strip().replace("\\", "/")).removeprefix(prefix).removeprefix("./")
        image_of = exact.get(text) or _namesake(text, names.get(PurePosixPath(text).name, []))
        if image_of is None:
            lost.append(text)
        elif image_of in row_of and not frame.iloc[i].equals(frame.iloc[row_of[image_of]]):
            lines = f"lines {row_of[image_of] + 2} and {i + 2}"
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


def nfc(text: str) -> str:
    """Text with composed characters: names written on macOS are decomposed, those in a CSV file usually are not."""
    return unicodedata.normalize("NFC", text)


def some(items: Sequence[str], count: int = 3) -> str:
    """The first few items for a message."""
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")
