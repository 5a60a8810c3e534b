"""CSV files that list photos: reading them and matching their rows to files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from maskprep.errors import UserError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "imageid", "image_id", "img")
"""Names of the column that says which photo a row is about, in lower case."""


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file (comma, semicolon or tab) as text columns.

    Raises:
        UserError: it cannot be read, naming the file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            separator = max(",;\t", key=head.count)
        frame = pd.read_csv(path, dtype="str", encoding="utf-8-sig", sep=separator, skipinitialspace=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{path}'.") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"Cannot read '{path}' as a CSV file: {reason}.", "Save it as UTF-8 with a header line."
        ) from error
    return frame.rename(columns=str)


def find_csv(root: Path) -> Path | None:
    """The one CSV in a folder whose header has a column for paths, if there is exactly one."""
    found = []
    for path in sorted(root.glob("*.csv")):
        try:
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline()
        except (OSError, UnicodeDecodeError):
            continue
        if any(cell.strip().strip('"').lower() in PATH_COLUMNS for cell in re.split("[,;\t]", header)):
            found.append(path)
    return found[0] if len(found) == 1 else None


def match(
    root: Path, path: Path, frame: pd.DataFrame, column: str, images: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Which row of a list each image has.

    Args:
        root: the photo folder; paths in the list may be absolute below it, relative to it, or bare file names where
            only one photo has that name.
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
        namesakes = names.get(PurePosixPath(text).name, [])
        image_of = exact.get(text) or (namesakes[0] if len(namesakes) == 1 else None)
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


def nfc(text: str) -> str:
    """Text with composed characters: names written on macOS are decomposed, those in a CSV file usually are not."""
    return unicodedata.normalize("NFC", text)


def some(items: Sequence[str], count: int = 3) -> str:
    """The first few items for a message."""
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")
