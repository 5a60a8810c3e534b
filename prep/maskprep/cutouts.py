"""Cut-outs of a plain folder of photos: the folder's tree mirrored, one PNG with transparency per photo.

Work is committed in small chunks below ``.maskprep`` in the folder of results, so a run that was stopped goes on. A
file that is there already is never replaced unless it is asked for: it is compared, and a different one is a failure.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from maskprep.errors import UsageError, UserError
from maskprep.job import available_workers
from maskprep.photos.decode import MAX_MEGAPIXELS, NOT_READ, PhotoError, Pixels, load
from maskprep.photos.walk import walk
from maskprep.pixels import matte_models
from maskprep.pixels.composite import cut_out
from maskprep.pixels.matte_models import LocalModel
from maskprep.pixels.matte_rules import Matte, finish
from maskprep.pixels.mattes import JUDGEMENT, MatteSettings, best
from maskprep.pixels.matting import Look, check_runtime, open_looks
from maskprep.pixels.refinement import refine
from maskprep.progress import Progress, Silent
from maskprep.store import engine as engines
from maskprep.store import shards
from maskprep.store.engine import Compute, Output, Row, Task
from maskprep.store.files import write_atomic, write_json
from maskprep.store.shards import live_rows, plan, read_rows, shard_numbers, shard_path, sweep
from maskprep.store.tables import fingerprint, read_table, schema_of

VERSION = 1
WORK = ".maskprep"
REPORT = "rembg.csv"
HEADER = ("image", "file", "status", "error", "coverage")
SETTINGS = "settings.json"
ROWS_PER_CHUNK = 8
EXISTS = "exists"
"""Status of a photo whose result's place is taken by another file."""

KINDS = ("cutout", "mask")

COLUMNS = schema_of([("file", pa.string()), ("error", pa.string()), *JUDGEMENT])


@dataclass(frozen=True)
class CutoutStage:
    """Writes cut-outs. Input rows: path, target, and file (its name relative to the folder of results)."""

    model: LocalModel
    runtime: str
    refinement: str
    kind: str
    force: bool
    max_megapixels: float
    columns: pa.Schema = COLUMNS
    array_shape: tuple[int, ...] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        """Load the model."""
        import cv2

        cv2.setNumThreads(1)
        nothing = dict.fromkeys(name for name, _ in JUDGEMENT)
        with open_looks(self.model, runtime=self.runtime) as looks:

            def compute(row: Row) -> Output | None:
                target = Path(str(row["target"]))
                said: Row = {"file": row["file"], "error": None, **nothing}
                try:
                    pixels = load(Path(str(row["path"])), self.max_megapixels)
                except PhotoError as problem:
                    if problem.kind == NOT_READ:
                        raise  # says nothing of the photo, so it is not kept
                    return {**said, "error": str(problem)}, None
                matte = best(self._made(look, pixels) for look in looks)
                data = encode(matte.alpha if self.kind == "mask" else cut_out(pixels, matte.alpha))
                if target.is_dir():
                    return {**said, "status": EXISTS, "error": f"'{row['file']}' is a folder there"}, None
                if target.exists() and not self.force and target.read_bytes() != data:
                    return {**said, "status": EXISTS, "error": f"'{row['file']}' is there and differs"}, None
                if not target.exists() or target.read_bytes() != data:
                    write_atomic(target, data)
                return {**said, **{name: getattr(matte, name) for name, _ in JUDGEMENT}}, None

            yield compute

    def _made(self, look: Look, pixels: Pixels) -> Matte:
        alpha, clear = look(pixels)
        return finish(refine(pixels, alpha, self.refinement) if clear else alpha, clear)


@dataclass(frozen=True)
class Cutouts:
    """What was done.

    Args:
        folder: of the results.
        photos: how many were found.
        made: how many results were computed now.
        statuses: of all results.
        failed: photo and reason, for those without a result.
        ignored: files that are no photos, counted by reason.
        unlisted: folders that cannot be listed, with why.
    """

    folder: Path
    photos: int
    made: int
    statuses: Counter[str]
    failed: list[tuple[str, str]]
    ignored: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)


def cut_folder(
    source: Path,
    out: Path,
    *,
    model: str = matte_models.DEFAULT,
    refinement: str = "none",
    runtime: str = "onnxruntime",
    kind: str = "cutout",
    force: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Cutouts:
    """Cut the person out of every photo below a folder.

    Args:
        source: folder of photos, never written to.
        out: folder of the results; the tree of the source is mirrored, ``a/b.jpg`` becomes ``a/b.png``. Photos that
            differ only in the suffix keep it: ``b.jpg.png``.
        model: name of a model or path of an ONNX file.
        refinement: none, guided or closed-form.
        runtime: onnxruntime or openvino.
        kind: ``cutout`` (PNG with transparency) or ``mask`` (the matte alone).
        force: replace files that are there already.
        max_megapixels: larger photos are errors.
        workers: processes; by default as many as there are cores.
        engine: processes or serial.
        progress: where progress is reported.

    Raises:
        UserError: the folder cannot be used, holds a file of another origin in the place of rembg.csv, or the model
            cannot be had. A photo that cannot be used is no exception but a line in :attr:`Cutouts.failed`.
    """
    engines.check(engine, workers)
    settings = MatteSettings(model=matte_models.find(model).name, refine=refinement, runtime=runtime)
    if kind not in KINDS:
        raise UsageError(f"Unknown kind of result '{kind}'.", f"Known: {', '.join(KINDS)}.")
    here, there = source.resolve(), out.resolve()
    if there.is_relative_to(here):
        raise UsageError(f"The results '{out}' would lie inside the photos.", "Name another place with --out.")
    if here.is_relative_to(there):
        raise UsageError(f"The photos '{source}' lie inside '{out}'.", "Name a folder of its own with --out.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file.", "Name a folder with --out.")
    found = walk(source)
    if not found.files:
        raise UserError(f"There are no photos in '{source}'.", "Give the folder that holds them.")
    _check_report(out / REPORT, [file.image for file in found.files])
    local = matte_models.locate(settings.model)
    check_runtime(runtime)
    if refinement == "closed-form":
        from maskprep.pixels.refinement import pymatting

        pymatting()
    stage = CutoutStage(local, runtime, refinement, kind, force, max_megapixels)
    key = fingerprint("cutout", VERSION, kind, max_megapixels, settings.identity(local))
    names = result_names([file.image for file in found.files])
    pairs, rows = [], []
    for file in found.files:
        pairs.append((file.image, fingerprint(file.image, file.size, file.mtime_ns, names[file.image], key)))
        path, target = os.fspath(source / file.image), os.fspath(out / names[file.image])
        rows.append({"path": path, "target": target, "file": names[file.image]})
    work = out / WORK
    _same_settings(work / SETTINGS, {"kind": kind, **settings.identity(local)}, force)
    sweep(work)
    for leftover in out.rglob(".tmp-[0-9]*-*.png"):
        leftover.unlink(missing_ok=True)
    _forget_lost(work, out, force)
    chunks = plan(work, pairs, ROWS_PER_CHUNK)
    inputs = dict(zip(pairs, rows, strict=True))
    tasks = [Task(work, chunk, tuple(inputs[pair] for pair in chunk.pairs)) for chunk in chunks]
    made = sum(len(task.rows) for task in tasks)
    bars = progress or Silent()
    if tasks:
        bars.start("rembg", made)
    broken = engines.run(stage, tasks, workers=workers or available_workers(), engine=engine, advance=bars.advance)
    shards.finish(work, pairs)
    table = read_rows(work, live_rows(work, pairs))
    results = [] if table is None else table.to_pylist()
    failed = [*broken, *((r["image"], r["error"]) for r in results if r["error"])]
    statuses = Counter(str(r["status"]) for r in results if not r["error"])
    _report(out / REPORT, results, broken)
    return Cutouts(out, len(pairs), made, statuses, sorted(failed), found.ignored, found.unlisted)


def _same_settings(path: Path, settings: dict[str, Any], force: bool) -> None:
    """Refuse to mix results of different settings in one folder."""
    folder = path.parent.parent
    if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise UsageError(f"'{path}' is not what rembg keeps there.", "Name another folder with --out.")
    before: Any = settings
    if path.is_file():
        try:
            before = json.loads(path.read_bytes())
        except ValueError:
            before = None
    if before != settings and not force:
        hint = "Name another folder with --out, or replace them with --force."
        try:
            was = ", ".join(f"{k} {v}" for k, v in {"kind": before["kind"], **before["settings"]}.items() if k != "on")
        except (TypeError, KeyError):
            raise UsageError(f"'{path}' is damaged: it does not say how the results were made.", hint) from None
        raise UsageError(f"The results in '{folder}' were made with other settings ({was}).", hint)
    if not path.is_file() or before != settings:
        write_json(path, settings)


def _check_report(path: Path, images: Sequence[str]) -> None:
    """Refuse to put rembg.csv in the place of anything but an earlier one.

    Raises:
        UsageError: a file of another origin or a folder is there, or a folder of photos has that name.
    """
    if path.is_dir() or any(image.casefold().startswith(f"{REPORT}/") for image in images):
        raise UsageError(f"The list of results takes the name '{REPORT}', which is that of a folder.", "Rename it.")
    if path.is_file():
        with path.open("rb") as file:
            first = file.readline()
        if first.rstrip(b"\r\n") != ",".join(HEADER).encode():
            raise UsageError(
                f"'{path}' is not a list of results that rembg wrote; it would be overwritten.",
                "Move it, or name another folder with --out.",
            )


def result_names(images: Sequence[str], suffix: str = ".png") -> dict[str, str]:
    """The result's name for every photo: the tree is kept, and no two photos share one, nor has one the name of a
    folder, whatever the file system thinks of capital letters.

    Returns:
        image -> name; the photo's suffix is replaced, or kept in front of the new one where that would collide; a
        number comes before the new one where that would collide too.
    """
    folders = {str(folder).casefold() for image in images for folder in PurePosixPath(image).parents}
    names = {image: str(PurePosixPath(image).with_suffix(suffix)) for image in images}

    def clashing() -> list[str]:
        counts = Counter(name.casefold() for name in names.values())
        return [i for i in images if counts[names[i].casefold()] > 1 or names[i].casefold() in folders]

    while clashes := [image for image in clashing() if names[image] != image + suffix]:
        names.update((image, image + suffix) for image in clashes)
    clashes = sorted(clashing())
    taken = folders | {names[image].casefold() for image in images if image not in set(clashes)}
    for image in clashes:
        tried = (f"{image}{f'-{n}' if n else ''}{suffix}" for n in itertools.count())
        names[image] = next(name for name in tried if name.casefold() not in taken)
        taken.add(names[image].casefold())
    return names


def encode(pixels: Pixels) -> bytes:
    """A picture as PNG: uint8 [H, W], [H, W, 3] or [H, W, 4]. Quick rather than small."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _forget_lost(work: Path, out: Path, force: bool) -> None:
    """Forget chunks of which a result is gone or its place was taken, and with ``force`` all: they are made again."""
    for shard in shard_numbers(work):
        path = shard_path(work, shard)
        try:
            rows = read_table(path, ["file", "error", "status"]).to_numpy().tolist()
        except UserError:  # damaged
            rows = [["", None, EXISTS]]
        lost = [file for file, error, _ in rows if not isinstance(error, str) and not (out / file).is_file()]
        if force or lost or any(status == EXISTS for *_, status in rows):
            path.unlink()


def _report(path: Path, results: Sequence[Row], broken: Sequence[tuple[str, str]]) -> None:
    """rembg.csv: one line per photo, sorted."""
    lines = [[r["image"], r["file"], r["status"] or "error", r["error"] or "", r["coverage"]] for r in results]
    lines += [[image, "", "error", why, None] for image, why in broken]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    for image, file, status, error, coverage in sorted(lines, key=lambda line: str(line[0])):
        writer.writerow([image, file, status, error, "" if coverage is None else f"{coverage:.4f}"])
    data = stream.getvalue().encode(errors="backslashreplace")
    if not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)
