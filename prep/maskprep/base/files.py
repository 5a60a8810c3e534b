"""Files that are there whole or not at all: written under another name, made durable, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskprep.base.errors import UsageError, UserError

MADE_BY = "maskprep.made-by"
"""Mark of pictures and pages that may be written over by the command that made them."""

HEAD = 4096
"""The mark is among so many first bytes of a file."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems say that have no locks, such as NFS without its lock service."""

NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems say that cannot make a folder durable, such as SMB and FUSE."""

KINDS = {dict: "object", list: "list", str: "text", int: "whole number", float: "number"}


def keep_out(path: Path, folder: Path, what: str = "photos", option: str = "--out") -> None:
    """Nothing is ever written among the photos.

    Args:
        path: a file or folder to write.
        folder: that it must not lie in; of photos, or of something else (``what``).
        option: that names the path.

    Raises:
        UsageError: it does.
    """
    if path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"'{path}' would lie among the {what} of '{folder}'.", f"Name another place with {option}.")


def keep_whole(path: Path, force: bool = False, option: str = "--out") -> None:
    """No file is written over that our commands did not make.

    Args:
        path: a file to write.
        force: write over any file.
        option: that names the path.

    Raises:
        UsageError: a file with content is there that has not :data:`MADE_BY` in its first bytes, or a folder.
    """
    if path.is_dir():
        raise UsageError(f"'{path}' is a folder.", f"Name a file with {option}.")
    if force or not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        if MADE_BY.encode() not in file.read(HEAD):
            raise UsageError(f"'{path}' exists.", f"Write over it with --force, or name another file with {option}.")


def read_once(path: Path) -> bytes:
    """The bytes of a small file, read again only when it has changed.

    Raises:
        OSError: it cannot be read.
    """
    info = path.stat()
    return _read(path, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


@lru_cache(32)
def _read(path: Path, *_: int) -> bytes:
    return path.read_bytes()


def temporary_name(final: Path) -> Path:
    """A name beside ``final`` that only this process uses; leftovers are recognised by ``.tmp-``."""
    return final.with_name(f".tmp-{os.getpid()}-{final.name}")


def fsync_replace(temporary: Path, final: Path) -> None:
    """Make a finished temporary file durable and give it its final name in one step."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    if os.name == "posix":
        handle = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in NO_FOLDER_SYNC:
                raise
        finally:
            os.close(handle)


@contextmanager
def lock(path: Path, taken: Callable[[str], UserError] | None = None) -> Iterator[bool]:
    """Hold a lock, which ends with the process, however that ends. Its file stays and names the last holder.

    Args:
        path: of the lock's file; its folder is made if missing.
        taken: the error where another process has the lock, from the number of that process; without it, wait.

    Yields:
        Whether the lock is held: False on a file system without locks, where everybody goes on.

    Raises:
        OSError: the file cannot be opened.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    guard = FileLock(path, timeout=-1 if taken is None else 0, fallback_to_soft=False)
    try:
        guard.acquire()
    except Timeout:
        if taken is None:
            raise
        try:
            process = path.read_text().strip()
        except OSError:  # Windows: what is locked cannot be read
            process = ""
        raise taken(process or "unknown") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        if guard.is_locked:
            with suppress(OSError):  # as above, or the disk is full
                path.write_text(str(os.getpid()))
        yield guard.is_locked
    finally:
        guard.release()


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file of the same suffix, then put it in place; if it fails, nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        write(temporary)
        fsync_replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole small file, or nothing."""
    write_with(path, lambda part: part.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, or nothing."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(file: Path, shape: Mapping[str, type], hint: str) -> dict[str, Any]:
    """Read a JSON object. Raises UserError with ``hint`` where it cannot be read or has another shape
    (:func:`check_shape`)."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}.", hint) from error
    check_shape(data, shape, str(file), hint)
    return dict(data)


def check_shape(data: Any, shape: Mapping[str, type], name: str, hint: str) -> None:
    """Make sure that data is an object that has what it cannot do without.

    Args:
        shape: what each value is, one of :data:`KINDS` by key; of objects within it by ``outer.inner``. A float is any
            finite number.
        name: of the data, for people.

    Raises:
        UserError: it is not.
    """
    if not isinstance(data, dict):
        raise UserError(f"{name} is damaged: it holds no object.", hint)
    for key, kind in shape.items():
        value: Any = data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        right = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not right or (kind is float and not math.isfinite(value)):
            raise UserError(f"{name} is damaged: '{key}' is missing or no {KINDS[kind]}.", hint)
