"""Which files a photo folder holds, and which of them are not photos."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from maskprep.errors import UserError
from maskprep.photos.decode import SUFFIXES


@dataclass(frozen=True)
class File:
    """One photo file as the walk met it.

    Args:
        image: path relative to the root, POSIX, the primary key of every table.
        size: bytes.
        mtime_ns: time of last change; with ``size`` it tells an unchanged file without reading it.
        broken: why the file cannot be opened, empty when it can.
    """

    image: str
    size: int
    mtime_ns: int
    broken: str = ""


@dataclass
class Walk:
    """The photos of a folder, sorted by image, and how many other files were passed over and why."""

    files: list[File] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def walk(root: Path) -> Walk:
    """List the photos below a folder. Links to folders are followed once, real folders first; loops end.

    Raises:
        UserError: the folder does not exist or cannot be listed.
    """
    if not root.is_dir():
        raise UserError(f"'{root}' is not a folder.", "Give the folder that holds the photos.")
    found = Walk()
    seen: set[tuple[int, int]] = set()
    links: list[tuple[str, str]] = []
    _enter(os.fspath(root), "", found, seen, links)
    while links:
        _enter(*links.pop(0), found, seen, links)
    found.files.sort(key=lambda file: file.image)
    return found


def _enter(folder: str, prefix: str, found: Walk, seen: set[tuple[int, int]], links: list[tuple[str, str]]) -> None:
    info = Path(folder).stat()
    if (info.st_dev, info.st_ino) in seen:
        found.ignored["link to a folder already met"] += 1
        return
    seen.add((info.st_dev, info.st_ino))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"Cannot list the folder '{folder}': {error.strerror}.") from error
    for entry in entries:
        image = f"{prefix}{entry.name}"
        if entry.name.startswith("."):
            found.ignored["hidden file"] += 1
        elif entry.is_dir(follow_symlinks=False):
            _enter(entry.path, f"{image}/", found, seen, links)
        elif entry.is_dir():
            links.append((entry.path, f"{image}/"))
        elif PurePosixPath(entry.name).suffix.lower() not in SUFFIXES:
            found.ignored[f"not a photo ({PurePosixPath(entry.name).suffix.lower() or 'no suffix'})"] += 1
        else:
            found.files.append(_file(entry, image))


def _file(entry: os.DirEntry[str], image: str) -> File:
    """A photo's row; a name that is not UTF-8 cannot be stored and is kept as an error under a readable name."""
    try:
        image.encode()
    except UnicodeEncodeError:
        readable = image.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return File(readable, 0, 0, "the file name is not valid UTF-8; rename the file")
    try:
        info = entry.stat()
    except OSError as error:
        return File(image, 0, 0, error.strerror or "cannot be opened")
    if not entry.is_file():
        return File(image, 0, 0, "not a regular file")
    return File(image, info.st_size, info.st_mtime_ns)
