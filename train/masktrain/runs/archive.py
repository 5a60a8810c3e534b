"""A run, an ensemble or all folds as one file that a colleague can use elsewhere, and back again.

The file is a zip of tables, settings and weights, never of code, with the sha256 of every file. Pages that show photos
stay behind unless they are asked for. What comes in such a
file is not trusted: it is looked at before anything is written, and is written beside its place first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maskprep.base import UsageError, UserError, temporary_name
from maskprep.store import Cache, is_cache
from masktrain.runs import files
from masktrain.runs import folder as runs
from masktrain.train.checkpoint import LAST, SIDECAR

MANIFEST, FORMAT = "packed.json", 1
KINDS = (".json", ".jsonl", ".yaml", ".parquet", ".safetensors", ".html", ".csv", ".md")
"""Endings of what is packed."""

FACES = (".html",)
"""Endings of pages, which hold photos; drafts of decisions are about these photos and go with them."""

MOST_FILES = 10_000
GROWTH, ANYWAY = 50, 200 * 2**20
"""A packed file may become so many times its size, or so many bytes anyway."""

CHUNK = 2**20

DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for itself."""


@dataclass(frozen=True)
class Packed:
    """A file that was written or read: its place, the run's name, how many files and bytes, and what was left out;
    ``faces`` is what was left out because it shows photos or rules on them."""

    place: Path
    name: str
    files: int
    size: int
    left_out: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()


def pack(run: Path, file: Path, *, whole: bool = False, with_faces: bool = False) -> Packed:
    """Write a run into one file; the same run gives the same bytes.

    Args:
        run: folder of a run, an ensemble, a composition or all folds.
        file: the zip to write; it must not be there yet.
        whole: also pack what only ``--resume`` and soups need: the last checkpoint and the weights of epochs.
        with_faces: also pack the pages that show photos, such as report.html, and drafts of decisions on photos.

    Raises:
        UsageError: it is no run with a finished epoch, or the file is there.
        UserError: a link among its files, which may lead anywhere, or a name that not every system can hold.
    """
    _need_run(run)
    runs.clear_of_photos([run], file, "FILE.zip")
    if file.exists():
        raise UsageError(f"{file} already exists.", "Choose another name.")
    if file.resolve().is_relative_to(run.resolve()):
        raise UsageError(f"{file} would lie in the run itself.", "Choose a place outside of it.")
    taken, left_out = _chosen(run, whole)
    faces = () if with_faces else tuple(name for name in taken if _shows_faces(name))
    taken = [name for name in taken if name not in faces]
    name = run.resolve().name
    about = {
        "format": FORMAT,
        "name": name if _plain(name) else "run",
        "files": {name: {"sha256": _digest(run / name), "bytes": (run / name).stat().st_size} for name in taken},
    }

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr(_entry(MANIFEST), json.dumps(about, indent=1, sort_keys=True))
            for name in taken:
                entry = _entry(name)
                entry.file_size = (run / name).stat().st_size
                with (run / name).open("rb") as source, made.open(entry, "w") as goal:
                    shutil.copyfileobj(source, goal, CHUNK)

    files.sweep(file.parent, file.name)
    files.write_file(file, write)
    return Packed(file, name, len(taken), file.stat().st_size, tuple(left_out), faces)


def unpack(file: Path, out: Path | None = None, root: Path = Path("runs")) -> Packed:
    """Make a run's folder of a packed file; nothing is ever written over, and nothing outside of the folder.

    Args:
        out: the folder, new or empty; by default the run's own name under ``root``.

    Raises:
        UsageError: no such file, or the folder is there.
        UserError: it is no packed run, it is damaged, or it holds what no run holds.
    """
    if not file.is_file():
        raise UsageError(f"{file} does not exist.")
    try:
        with zipfile.ZipFile(file) as given:
            about = _manifest(given, file)
            entries = _checked(given, about["files"], file)
            place = out or root / about["name"]
            _clear_of_photos(given, place)
            if place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise UsageError(f"{place} already exists.", "Choose another --out.")
            place.parent.mkdir(parents=True, exist_ok=True)
            total = sum(known["bytes"] for known in about["files"].values())
            if total > shutil.disk_usage(place.parent).free:
                raise UserError(f"{place.parent} has not the {total / 2**20:.0f} MiB that {file} takes.")
            _write(given, entries, about["files"], place, file)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{file} cannot be unpacked: {error}") from error
    return Packed(place, about["name"], len(entries), total)


def _clear_of_photos(given: zipfile.ZipFile, place: Path) -> None:
    """A run is not unpacked among the photos that it was trained on, where its cache is on this machine.

    Raises:
        UsageError: the folder lies there.
    """
    with contextlib.suppress(KeyError, ValueError, TypeError):  # a packed file of ours has all of it
        cache = Path(json.loads(given.read(runs.DATA))["cache"])
        if is_cache(cache):
            Cache(cache).clear_of_photos(place)


def _need_run(run: Path) -> None:
    """Refuse a folder that is no run, or one that is not finished.

    Raises:
        UsageError: saying so.
    """
    if (run / runs.FOLDS).is_file():
        runs.members(run)
    elif not ((run / SIDECAR).is_file() or (run / runs.ENSEMBLE).is_file()):
        raise UsageError(f"{run} is not a run with a finished epoch.", "Make one with: masktrain fit CACHE")


def _chosen(run: Path, whole: bool) -> tuple[list[str], list[str]]:
    """Files to pack, in the order of their names, and those to leave out."""
    taken: list[str] = []
    left_out: list[str] = []
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_symlink():
            raise UserError(f"{path} is a link, which may lead anywhere.", "Put the file itself in its place.")
        if not path.is_file() or path.name == runs.LOCK:
            continue
        resuming = path.name == LAST or path.parent.name == "epochs"
        kept = whole if resuming else path.suffix in KINDS and not path.name.startswith(".")
        if kept and not _plain(name):
            raise UserError(f"{path} has a name that not every system can hold.", "Rename it.")
        (taken if kept and name != MANIFEST else left_out).append(name)
    return taken, left_out


def _shows_faces(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix in FACES or (path.suffix == ".csv" and path.name.startswith("decisions"))


def _manifest(given: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    """What the file says of itself."""
    broken = UserError(f"{file} is no packed run.", "Make one with: masktrain pack RUN FILE.zip")
    infos = given.infolist()
    if not infos or infos[0].filename != MANIFEST or infos[0].file_size > 16 * 2**20 or len(infos) > MOST_FILES:
        raise broken
    try:
        with given.open(infos[0]) as source:
            about = json.loads(source.read(16 * 2**20))
        if about["format"] != FORMAT:
            raise UserError(f"{file} was packed by another version of masktrain.")
        for name, known in about["files"].items():
            if not (isinstance(name, str) and isinstance(known["sha256"], str) and int(known["bytes"]) >= 0):
                raise broken
        name = str(about["name"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise broken from error
    if not _plain(name) or "/" in name:
        raise UserError(f"{file} names a run {name!r}, which is no name of a folder.")
    return dict(about)


def _checked(
    given: zipfile.ZipFile, files: dict[str, dict[str, Any]], file: Path
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files within, after a look at everything that can be known before they are read.

    Raises:
        UserError: names that lead elsewhere, links, more than is listed, or far more than the file is large.
    """
    found = []
    infos = given.infolist()[1:]
    names = [info.filename for info in infos]
    if sorted(names) != sorted(files) or len({name.casefold() for name in names}) < len(names):
        raise UserError(f"{file} does not hold the files that it lists, each once.")
    for info in infos:
        name, mode = info.filename, info.external_attr >> 16
        if not _plain(name) or info.is_dir() or (mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode)):
            raise UserError(f"{file} holds {name!r}, which is no plain file inside of a folder.", "Do not use it.")
        path = PurePosixPath(name)
        if path.suffix not in (*KINDS, ".ckpt") or (path.suffix == ".ckpt" and path.name != LAST):
            raise UserError(f"{file} holds '{name}', which no run holds.", "Do not use it.")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{file}: '{name}' is packed in a way that masktrain does not use.")
        if info.file_size != int(files[name]["bytes"]):
            raise UserError(f"{file}: '{name}' has another size than is listed.")
        found.append((info, path))
    total = sum(info.file_size for info in infos)
    if total > max(ANYWAY, GROWTH * file.stat().st_size):
        raise UserError(f"{file} would become {total / 2**20:.0f} MiB, {GROWTH} times its size: no run does that.")
    return found


def _plain(name: str) -> bool:
    """Whether a name stays within the folder it is put in, on any system."""
    parts = name.split("/")
    odd = not name.isprintable() or any(c in '\\:*?"<>|' for c in name) or any(DEVICES.fullmatch(p) for p in parts)
    return bool(name) and not odd and all(p not in ("", ".", "..") and p == p.strip() for p in parts)


def _write(
    given: zipfile.ZipFile,
    entries: list[tuple[zipfile.ZipInfo, PurePosixPath]],
    listed: dict[str, dict[str, Any]],
    place: Path,
    file: Path,
) -> None:
    """Put the files beside their place, look whether they are a run, and move all of them there at once."""
    files.sweep(place.parent, place.name)
    beside = temporary_name(place)
    try:
        beside.mkdir()
        for info, path in entries:
            goal = beside.joinpath(*path.parts)
            goal.parent.mkdir(parents=True, exist_ok=True)
            digest, size = hashlib.sha256(), 0
            with given.open(info) as source, goal.open("xb") as target:
                for part in _parts(source, info.file_size, file, info.filename):
                    digest.update(part)
                    target.write(part)
                    size += len(part)
            if size != info.file_size or digest.hexdigest() != listed[info.filename]["sha256"]:
                raise UserError(f"{file}: '{info.filename}' is not what was packed.", "Ask for the file once more.")
        _need_run(beside)
        _need_members(beside, file)
        if place.is_dir():
            place.rmdir()  # it is empty
        beside.rename(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _parts(source: Any, most: int, file: Path, name: str) -> Iterator[bytes]:
    """A packed file piece by piece; never more than it said it would be."""
    size = 0
    while part := source.read(CHUNK):
        size += len(part)
        if size > most:
            raise UserError(f"{file}: '{name}' is larger than it says.", "Do not use it.")
        yield part


def _need_members(run: Path, file: Path) -> None:
    """Make sure that an ensemble's members lie within it."""
    if not (run / runs.ENSEMBLE).is_file():
        return
    try:
        kept = json.loads((run / runs.ENSEMBLE).read_text(encoding="utf-8"))
        folders = [str(m["folder"]) for m in kept["members"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: {runs.ENSEMBLE} cannot be read: {error}") from error
    for folder in folders:
        if not _plain(folder) or not (run / folder / SIDECAR).is_file():
            raise UserError(f"{file}: the ensemble's member '{folder}' is not in it.", "Do not use it.")


def _entry(name: str) -> zipfile.ZipInfo:
    """A plain file of no particular time and owner."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o100644 << 16, 3
    return entry


def _digest(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
