"""Files of runs: written whole or not at all, and what ended processes have left of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from maskprep.base import UserError, write_with


def sweep(folder: Path, name: str = "*") -> None:
    """Remove temporary files and folders that ended processes of this machine have left.

    Args:
        name: the final name of the files, or all.
    """
    for left in folder.glob(f".tmp-*-{name}"):
        process = left.name.split("-")[1]
        if process.isdecimal() and int(process) != os.getpid() and not _runs(int(process)):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _runs(process: int) -> bool:
    if os.name != "posix":  # there, asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def write_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file of a run, whole or not at all; see :func:`maskprep.base.files.write_with`.

    Raises:
        UserError: it could not be written, most often as the disk is full.
    """
    try:
        write_with(file, write)
    except OSError as error:
        free = shutil.disk_usage(file.parent).free / 2**20
        raise UserError(
            f"'{file}' could not be written ({error}); {free:.0f} MiB are free there.", "Make room."
        ) from error
