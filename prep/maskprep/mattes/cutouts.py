"""Cut-outs of photos, PNG with transparency or on a colour: of one photo, or of a folder, whose tree is mirrored.

Work is committed in small chunks below ``.maskprep`` in the folder of results, so a run that was stopped goes on. A
file that is there already is never replaced unless it is asked for: it is compared, and a different one is a failure.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from maskprep.base.colours import TRANSPARENT, Colour, parse_colour
from maskprep.base.files import keep_whole, write_atomic, write_json
from maskprep.base.progress import Progress, Silent
from maskprep.crops.compositing import cut_out, place
from maskprep.errors import UsageError, UserError
from maskprep.mattes import models as matte_models
from maskprep.mattes.matte import JUDGEMENT, MatteSettings, best
from maskprep.mattes.models import LocalModel
from maskprep.mattes.refinement import refine
from maskprep.mattes.rules import GROUND_KEPT, Matte, finish
from maskprep.mattes.runtime import Look, check_runtime, open_looks
from maskprep.photos.decode import MAX_MEGAPIXELS, NOT_READ, PhotoError, Pixels, load
from maskprep.photos.naming import result_names
from maskprep.photos.pictures import encode, write_png
from maskprep.photos.walk import walk
from maskprep.pipeline.job import available_workers
from maskprep.store import pool as engines
from maskprep.store import shards
from maskprep.store.pool import Compute, Output, Row, Task
from maskprep.store.shards import live_rows, plan, read_rows, shard_numbers, shard_path, sweep
from maskprep.store.tables import fingerprint, read_table, schema_of

VERSION = 2
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
    settings: MatteSettings
    kind: str
    ground: Colour | None
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
        with open_looks(self.model, 1, self.settings.runtime, self.settings.providers) as looks:

            def compute(row: Row) -> Output | None:
                target = Path(str(row["target"]))
                said: Row = {"file": row["file"], "error": None, **nothing}
                try:
                    pixels = load(Path(str(row["path"])), self.max_megapixels)
                except PhotoError as problem:
                    if problem.kind == NOT_READ:
                        raise  # says nothing of the photo, so it is not kept
                    return {**said, "error": str(problem)}, None
                matte = _matte(looks, pixels, self.settings.refine)
                data = encode(_result(pixels, matte, self.kind, self.ground))
                if target.is_dir():
                    return {**said, "status": EXISTS, "error": f"'{row['file']}' is a folder there"}, None
                if target.exists() and not self.force and target.read_bytes() != data:
                    return {**said, "status": EXISTS, "error": f"'{row['file']}' is there and differs"}, None
                if not target.exists() or target.read_bytes() != data:
                    write_atomic(target, data)
                return {**said, **{name: getattr(matte, name) for name, _ in JUDGEMENT}}, None

            yield compute


def _matte(looks: Sequence[Look], pixels: Pixels, refinement: str) -> Matte:
    """The matte of a whole photo, on which no face is known."""

    def made(look: Look) -> Matte:
        alpha, clear = look(pixels)
        return finish(refine(pixels, alpha, refinement) if clear else alpha, clear)

    return best(made(look) for look in looks)


def _result(pixels: Pixels, matte: Matte, kind: str, ground: Colour | None) -> Pixels:
    """The picture that is written; a photo on which nobody was found keeps its background."""
    if kind == "mask":
        return matte.alpha
    alpha = matte.alpha if matte.found else np.full_like(matte.alpha, 255)
    return cut_out(pixels, alpha) if ground is None else place(pixels, alpha, np.array(ground, np.uint8))


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
        kept: photos that keep their background: the photo -> the status of its matte.
    """

    folder: Path
    photos: int
    made: int
    statuses: Counter[str]
    failed: list[tuple[str, str]]
    ignored: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def cut_photo(
    source: Path,
    out: Path,
    *,
    model: str = matte_models.DEFAULT,
    refinement: str = "none",
    runtime: str = "onnxruntime",
    providers: Sequence[str] = (),
    kind: str = "cutout",
    background: str = TRANSPARENT,
    force: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Cutouts:
    """Cut the person out of one photo.

    Args:
        source: the photo, never written to.
        out: the PNG to write, which may lie beside the photo. A file of another origin is not written over.
        model: see :func:`cut_folder`, as for the following.
        refinement: see there.
        runtime: see there.
        providers: see there.
        kind: see there.
        background: see there.
        force: write over any file but the photo itself.
        max_megapixels: see there.

    Raises:
        UserError: the photo cannot be read, the file cannot be written, or the model cannot be had.
    """
    settings, ground = _settings(model, refinement, runtime, providers, kind, background)
    if out.exists() and out.samefile(source):
        raise UsageError(f"'{out}' is the photo itself.", "Name another file with --out.")
    if out.suffix.lower() != ".png" and not out.is_dir():
        raise UsageError(f"The result of '{source}' is a PNG, not '{out.name}'.", "Name a file that ends in .png.")
    keep_whole(out, force)
    local = matte_models.locate(settings.model)
    check_runtime(runtime, providers)
    try:
        pixels = load(source, max_megapixels)
    except PhotoError as problem:
        raise UserError(f"'{source}': {problem}.") from problem
    with open_looks(local, available_workers(), settings.runtime, settings.providers) as looks:
        matte = _matte(looks, pixels, settings.refine)
    write_png(out, Image.fromarray(_result(pixels, matte, kind, ground)))
    kept = {source.name: matte.status} if kind == "cutout" and matte.status in GROUND_KEPT else {}
    return Cutouts(out, 1, 1, Counter([matte.status]), [], kept=kept)


def cut_folder(
    source: Path,
    out: Path,
    *,
    model: str = matte_models.DEFAULT,
    refinement: str = "none",
    runtime: str = "onnxruntime",
    providers: Sequence[str] = (),
    kind: str = "cutout",
    background: str = TRANSPARENT,
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
        providers: what onnxruntime runs on, such as ``cuda``; none: the processor.
        kind: ``cutout`` (the person) or ``mask`` (the matte alone).
        background: of cut-outs, ``transparent`` or a colour (#rrggbb, r,g,b or a name).
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
    settings, ground = _settings(model, refinement, runtime, providers, kind, background)
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
    check_runtime(runtime, providers)
    if refinement == "closed-form":
        from maskprep.mattes.refinement import pymatting

        pymatting()
    stage = CutoutStage(local, settings, kind, ground, force, max_megapixels)
    about = {"kind": kind, **({} if ground is None else {"background": list(ground)}), **settings.identity(local)}
    key = fingerprint("cutout", VERSION, max_megapixels, about)
    names = result_names([file.image for file in found.files])
    pairs, rows = [], []
    for file in found.files:
        pairs.append((file.image, fingerprint(file.image, file.size, file.mtime_ns, names[file.image], key)))
        path, target = os.fspath(source / file.image), os.fspath(out / names[file.image])
        rows.append({"path": path, "target": target, "file": names[file.image]})
    work = out / WORK
    _same_settings(work / SETTINGS, about, force)
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
    cut = kind == "cutout"
    kept = {r["image"]: r["status"] for r in results if cut and not r["error"] and r["status"] in GROUND_KEPT}
    return Cutouts(out, len(pairs), made, statuses, sorted(failed), found.ignored, found.unlisted, kept)


def _settings(
    model: str, refinement: str, runtime: str, providers: Sequence[str], kind: str, background: str
) -> tuple[MatteSettings, Colour | None]:
    """What is asked for, checked; the colour is None for a transparent background."""
    if kind not in KINDS:
        raise UsageError(f"Unknown kind of result '{kind}'.", f"Known: {', '.join(KINDS)}.")
    ground = None if background == TRANSPARENT else parse_colour(background)
    if kind == "mask" and ground is not None:
        raise UsageError("A mask has no background.", "Give --mask or --background.")
    name = matte_models.find(model).name
    return MatteSettings(name, refine=refinement, runtime=runtime, providers=tuple(providers)), ground


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
            named = {k: before[k] for k in ("kind", "background") if k in before or k == "kind"}
            was = ", ".join(f"{k} {v}" for k, v in {**named, **before["settings"]}.items() if k != "on")
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
