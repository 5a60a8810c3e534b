"""Photos named one by one, in a file or on standard input, as a folder that the preprocessing can read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maskprep.base import UserError
from maskprep.photos import SUFFIXES
from masktrain.data import names as tables

STDIN = "-"
LIST_SUFFIXES = (".csv", ".txt")


@dataclass(frozen=True)
class Listed:
    """Photos as they were named.

    Args:
        folder: holds a link to each photo, under a name of its own.
        rows: for each line the name that was given, and the photo's name in the folder, None if there is none.
        paths: where each photo of the folder really is.
        folders: that hold the photos, by the names that were given and as they really are.
    """

    folder: Path
    rows: list[tuple[str, str | None]]
    paths: dict[str, Path]
    folders: frozenset[Path]


def is_list(source: Path) -> bool:
    """Whether a source names photos instead of being one."""
    return str(source) == STDIN or (source.suffix.lower() in LIST_SUFFIXES and source.is_file())


def gather(source: Path, folder: Path) -> Listed:
    """Link the photos of a list into a folder.

    Args:
        source: ``-`` for standard input or a text file, one path a line; or a CSV with a column ImageID, image or file.
            Paths in a file are relative to it, those on standard input to where the command runs.

    Raises:
        UserError: an empty list, or a table without such a column.
    """
    if str(source) == STDIN:
        names, base = [line.rstrip("\r\n") for line in sys.stdin], Path()
    elif source.suffix.lower() == ".csv":
        table = tables.read_csv(source)
        names, base = table[tables.name_column(table, source)].tolist(), source.parent
    else:
        try:
            names = source.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source} cannot be read: {error}") from error
        base = source.parent
    names = [name for name in names if name.strip()]
    if not names:
        raise UserError(f"{'Standard input' if str(source) == STDIN else source} names no photos.")
    return link(names, base, folder)


def link(names: Iterable[str], base: Path, folder: Path) -> Listed:
    """Link photos by number, so that equal names in different folders stay apart."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str | None]] = []
    known: dict[Path, str] = {}
    folders: set[Path] = set()
    for name in names:
        path = base / name.strip()
        if not path.is_file():
            rows.append((name, None))
            continue
        real = path.resolve()
        folders |= {path.parent.resolve(), real.parent}
        if real not in known:
            # what a file holds decides, not what it is called: any other suffix would be passed over
            suffix = real.suffix.lower() if real.suffix.lower() in SUFFIXES else ".jpg"
            known[real] = f"{len(known):08d}{suffix}"
            _link(real, folder / known[real])
        rows.append((name, known[real]))
    return Listed(folder, rows, {image: real for real, image in known.items()}, frozenset(folders))


def _link(real: Path, name: Path) -> None:
    try:
        name.symlink_to(real)
    except (OSError, NotImplementedError):  # file systems and users without links
        shutil.copy2(real, name)
