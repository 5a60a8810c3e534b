"""A folder of photos: which files it holds, which of them are no photos, and the photo of an image."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from maskprep.base import UserError
from maskprep.photos.decode import SUFFIXES, PhotoFile

LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Why a link cannot be followed: facts of the folder, while other errors of the system may pass."""


CLOSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
"""Why a folder below the photos is passed over. After other errors, of the disk or the network, the photos in it would
seem to be gone and what was made of them would be lost."""

SYSTEM_FOLDERS = frozenset(("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information"))
"""Folders in which systems keep thumbnails and leavings, in lower case; photos in them are copies."""

NOT_UTF8 = "the file name is not valid UTF-8; rename the file"


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
    """The photos of a folder, sorted by image; how many other files were passed over and why; which folders below it
    cannot be listed and why."""

    files: list[File] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)


def walk(root: Path) -> Walk:
    """List the photos below a folder. Links to folders are followed once, real folders first; loops end.

    Raises:
        UserError: the folder does not exist or cannot be listed, or one below it cannot for a reason that may pass.
    """
    if not root.is_dir():
        raise UserError(f"'{root}' is not a folder.", "Give the folder that holds the photos.")
    found = Walk()
    seen: set[tuple[int, int]] = set()
    folders, links = [(os.fspath(root), "")], deque[tuple[str, str]]()
    while folders or links:
        folder, prefix = folders.pop() if folders else links.popleft()
        inside, linked = _list(folder, prefix, found, seen)
        folders.extend(reversed(inside))
        links.extend(linked)
    found.files = sorted(_storable(found.files), key=lambda file: file.image)
    return found


def _storable(files: list[File]) -> Iterator[File]:
    """The files under names that a table can hold, each its own: bytes that are not UTF-8 are escaped, and a name that
    another file has already gets a number."""
    taken = {file.image for file in files if file.broken != NOT_UTF8}
    for file in sorted(files, key=lambda file: file.image):
        if file.broken == NOT_UTF8:
            escaped = PurePosixPath(os.fsencode(file.image).decode(errors="backslashreplace"))
            tried = (escaped.with_stem(f"{escaped.stem}-{n}") for n in itertools.count(2))
            name = next(str(name) for name in itertools.chain([escaped], tried) if str(name) not in taken)
            taken.add(name)
            file = replace(file, image=name)
        yield file


Folders = list[tuple[str, str]]
"""(path, what its files' names begin with)."""


def _list(folder: str, prefix: str, found: Walk, seen: set[tuple[int, int]]) -> tuple[Folders, Folders]:
    """Take note of one folder's files. Returns the folders in it, real ones and linked ones."""
    try:
        info = Path(folder).stat()
        if (info.st_dev, info.st_ino) in seen:
            found.ignored["link to a folder that was already listed"] += 1
            return [], []
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if prefix and error.errno in CLOSED:
            found.unlisted.append(f"{os.fsencode(prefix).decode(errors='backslashreplace')} ({error.strerror})")
            return [], []
        raise UserError(f"Cannot list the folder '{folder}': {error.strerror}.") from error
    seen.add((info.st_dev, info.st_ino))
    inside: Folders = []
    linked: Folders = []
    for entry in entries:
        image = f"{prefix}{entry.name}"
        suffix = PurePosixPath(entry.name).suffix.lower()
        if entry.name.startswith("."):
            found.ignored["hidden file"] += 1
        elif entry.name.lower() in SYSTEM_FOLDERS:
            found.ignored[f"system folder ({entry.name})"] += 1
        elif entry.is_dir(follow_symlinks=False):
            inside.append((entry.path, f"{image}/"))
        elif _is_folder(entry):
            linked.append((entry.path, f"{image}/"))
        elif suffix not in SUFFIXES:
            found.ignored[f"not a photo ({suffix.encode(errors='replace').decode() or 'no suffix'})"] += 1
        else:
            found.files.append(_file(entry, image))
    return inside, linked


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder; a link to itself leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _file(entry: os.DirEntry[str], image: str) -> File:
    """A photo's row; a name that is not UTF-8 cannot be stored: such a file is broken."""
    try:
        image.encode()
    except UnicodeEncodeError:
        return File(image, 0, 0, NOT_UTF8)
    try:
        info = entry.stat()
    except OSError as error:
        lost = error.errno in LEADS_NOWHERE
        return File(image, 0, 0, (error.strerror or "cannot be opened") if lost else "")  # others show when it is read
    if not stat.S_ISREG(info.st_mode):
        return File(image, 0, 0, "not a regular file")
    return File(image, info.st_size, info.st_mtime_ns)


@dataclass(frozen=True)
class PhotoFolder:
    """Opens the photo of an image; larger ones than the limit are not decoded."""

    root: Path
    max_megapixels: float

    def __call__(self, image: str) -> PhotoFile:
        return PhotoFile(self.root / image, self.max_megapixels)
