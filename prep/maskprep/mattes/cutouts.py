"""Cut-outs of photos, PNG with transparency or on a colour: of one photo, or of a folder, whose tree is mirrored.

Work is committed in small chunks below ``.maskprep`` in the folder of results, so a run that was stopped goes on. A
file that is there already is never replaced unless it is asked for: it is compared, and a different one is a failure.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from maskprep.base import (
    TRANSPARENT,
    Colour,
    Progress,
    Silent,
    UsageError,
    UserError,
    cores,
    keep_whole,
    parse_colour,
    write_atomic,
)
from maskprep.crops import GROUND_KEPT, cut_out, place
from maskprep.mattes import models as matte_models
from maskprep.mattes.matte import MatteSettings, best
from maskprep.mattes.planes import JUDGEMENT
from maskprep.mattes.refinement import pymatting, refine
from maskprep.mattes.rules import Matte, finish
from maskprep.mattes.runtime import Look, check_runtime, open_looks
from maskprep.photos import (
    MAX_MEGAPIXELS,
    NOT_READ,
    File,
    PhotoError,
    PhotoFile,
    PhotoFolder,
    Pixels,
    encode,
    load,
    result_names,
    walk,
    write_png,
)
from maskprep.store import (
    Cache,
    Compute,
    Input,
    MapStage,
    Output,
    Pool,
    Recipe,
    Report,
    Tables,
    check,
    fingerprint,
    read_table,
    refresh,
    schema_of,
    shard_numbers,
    shard_path,
    sweep,
)

VERSION = 2
WORK = ".maskprep"
REPORT = "rembg.csv"
HEADER = ("image", "file", "status", "error", "coverage")
EXISTS = "exists"
"""Status of a photo whose result's place is taken by another file."""

KINDS = ("cutout", "mask")

COLUMNS = schema_of([("file", pa.string()), ("error", pa.string()), *JUDGEMENT])


@dataclass(frozen=True)
class CutoutSettings:
    """How photos are cut out.

    Args:
        model, refine, runtime, providers: as of :class:`MatteSettings`.
        kind: ``cutout`` (the person) or ``mask`` (the matte alone).
        background: of cut-outs, ``transparent`` or a colour (#rrggbb, r,g,b or a name).
        max_megapixels: larger photos are errors.

    Raises:
        UsageError: a value out of range, or a mask with a background.
    """

    model: str = matte_models.DEFAULT
    refine: str = "none"
    runtime: str = "onnxruntime"
    providers: tuple[str, ...] = ()
    kind: str = "cutout"
    background: str = TRANSPARENT
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"Unknown kind of result '{self.kind}'.", f"Known: {', '.join(KINDS)}.")
        if self.ground is not None and self.kind == "mask":
            raise UsageError("--mask writes mattes, which have no background.", "Give --mask or --background.")

    @property
    def ground(self) -> Colour | None:
        """The colour behind the person, None for a transparent background."""
        return None if self.background == TRANSPARENT else parse_colour(self.background)

    @property
    def matte(self) -> MatteSettings:
        """The settings of the mattes."""
        name = matte_models.find(self.model).name
        return MatteSettings(name, refine=self.refine, runtime=self.runtime, providers=self.providers)


@dataclass(frozen=True)
class CutoutRow:
    """Where the result of a photo goes: its name in the folder of results, and its path."""

    file: str
    target: Path


@dataclass(frozen=True)
class Cutout(MapStage[CutoutRow]):
    """Writes the results of a folder of photos; the rows say what became of them.

    Args:
        settings: how they are cut out.
        force: whether files that are there are replaced.
        files: the photos.
        out: folder of the results.
    """

    settings: CutoutSettings
    force: bool
    files: tuple[File, ...] = ()
    out: Path = Path()
    name: ClassVar[str] = "rembg"
    columns: ClassVar[pa.Schema] = COLUMNS
    rows_per_shard: ClassVar[int] = 8

    @property
    def recipe(self) -> Recipe:
        made = self.settings.matte.recipe(matte_models.locate(self.settings.model, fetch=False))
        ground = self.settings.ground
        own = {"kind": self.settings.kind, **({} if ground is None else {"background": list(ground)})}
        return dataclasses.replace(made, settings={**own, **made.settings})

    def worker(self) -> Cutout:
        return dataclasses.replace(self, files=())

    def folder(self, cache: Cache) -> Path:
        return cache.root

    def other_inputs(self, tables: Tables) -> Any:
        return [dataclasses.astuple(file) for file in self.files]

    def inputs(self, tables: Tables) -> list[Input[CutoutRow]]:
        names = result_names([file.image for file in self.files])
        key = fingerprint("cutout", VERSION, self.settings.max_megapixels, self.recipe.to_dict())
        return [
            Input(
                f.image,
                fingerprint(f.image, f.size, f.mtime_ns, names[f.image], key),
                CutoutRow(names[f.image], self.out / names[f.image]),
            )
            for f in self.files
        ]

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        import cv2

        cv2.setNumThreads(1)
        nothing = dict.fromkeys(name for name, _ in JUDGEMENT)
        model = matte_models.locate(self.settings.model, fetch=False)
        with open_looks(model, 1, self.settings.runtime, self.settings.providers) as looks:

            def compute(photo: PhotoFile, row: CutoutRow) -> Output | None:
                record: dict[str, Any] = {"file": row.file, "error": None, **nothing}
                try:
                    pixels = photo.pixels()
                except PhotoError as problem:
                    if problem.kind == NOT_READ:
                        raise  # says nothing of the photo, so it is not kept
                    return {**record, "error": str(problem)}, None
                matte = _matte(looks, pixels, self.settings.refine)
                data, there = encode(_result(pixels, matte, self.settings)), row.target.exists()
                folder = row.target.is_dir()
                differs = folder or (there and row.target.read_bytes() != data)
                if folder or (differs and not self.force):
                    what = "is a folder" if folder else "exists and differs"
                    return {**record, "status": EXISTS, "error": f"'{row.file}' {what}"}, None
                if differs or not there:
                    write_atomic(row.target, data)
                return {**record, **{name: getattr(matte, name) for name, _ in JUDGEMENT}}, None

            yield compute


def _matte(looks: Sequence[Look], pixels: Pixels, refinement: str) -> Matte:
    """The matte of a whole photo, on which no face is known."""

    def made(look: Look) -> Matte:
        alpha, clear = look(pixels)
        return finish(refine(pixels, alpha, refinement) if clear else alpha, clear)

    return best(made(look) for look in looks)


def _result(pixels: Pixels, matte: Matte, settings: CutoutSettings) -> Pixels:
    """The picture that is written; a photo on which nobody was found keeps its background."""
    if settings.kind == "mask":
        return matte.alpha
    alpha, ground = matte.alpha if matte.found else np.full_like(matte.alpha, 255), settings.ground
    return cut_out(pixels, alpha) if ground is None else place(pixels, alpha, np.array(ground, np.uint8))


@dataclass(frozen=True)
class Cutouts:
    """What was done: where the results are, how many photos there are and results were made now, the statuses of all
    results, (photo, reason) of those without; files that are no photos by reason, folders that cannot be listed with
    why, and the photos that keep their background -> the status of their matte."""

    folder: Path
    photos: int
    made: int
    statuses: Counter[str]
    failed: list[tuple[str, str]]
    ignored: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def cut_photo(source: Path, out: Path, settings: CutoutSettings, force: bool = False) -> Cutouts:
    """Cut the person out of one photo, which is never written to.

    Args:
        source: the photo.
        out: the PNG to write, which may lie beside the photo. A file of another origin is written over by force only.
        settings: how.
        force: see ``out``.

    Raises:
        UsageError: the photo cannot be read, the file cannot be written, or the model cannot be had.
    """
    if out.exists() and out.samefile(source):
        raise UsageError(f"'{out}' is the photo itself.", "Name another file with --out.")
    if out.suffix.lower() != ".png" and not out.is_dir():
        raise UsageError(f"The result of '{source}' is a PNG, not '{out.name}'.", "Name a file that ends in .png.")
    keep_whole(out, force)
    local = matte_models.locate(settings.model)
    check_runtime(settings.runtime, settings.providers)
    try:
        pixels = load(source, settings.max_megapixels)
    except PhotoError as problem:
        raise UserError(f"'{source}': {problem}.") from problem
    with open_looks(local, cores(), settings.runtime, settings.providers) as looks:
        matte = _matte(looks, pixels, settings.refine)
    write_png(out, Image.fromarray(_result(pixels, matte, settings)))
    kept = {source.name: matte.status} if settings.kind == "cutout" and matte.status in GROUND_KEPT else {}
    return Cutouts(out, 1, 1, Counter([matte.status]), [], kept=kept)


def cut_folder(
    source: Path,
    out: Path,
    settings: CutoutSettings,
    force: bool = False,
    *,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Cutouts:
    """Cut the person out of every photo below a folder.

    Args:
        source: folder of photos, never written to.
        out: folder of the results, which mirrors the source's tree (:func:`maskprep.photos.naming.result_names`).
        settings: how.
        force: replace files that are there already.
        workers, engine, progress: as of :class:`maskprep.pipeline.session.Session`.

    Raises:
        UserError: the folder cannot be used, holds a file of another origin in the place of rembg.csv, or the model
            cannot be had. A photo that cannot be used is no exception but a line in :attr:`Cutouts.failed`.
    """
    check(engine, workers)
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
    matte_models.locate(settings.model)
    check_runtime(settings.runtime, settings.providers)
    if settings.refine == "closed-form":
        pymatting()
    stage = Cutout(settings, force, tuple(found.files), out)
    work = Cache(out / WORK)
    _same_settings(stage, work, force)
    report = Report(progress or Silent())
    with work.lock(), Pool(workers or cores(), engine) as pool:
        sweep(work.root)
        for leftover in out.rglob(".tmp-[0-9]*-*.png"):
            leftover.unlink(missing_ok=True)
        _forget_lost(work.root, out, force)
        tables = Tables(work, [stage])
        refresh([stage], tables, pool, PhotoFolder(source, settings.max_megapixels), report)
        table = tables.rows(stage.name)
        results = [] if table is None else table.to_pylist()
        broken = sorted(report.failed.items())
        _report(out / REPORT, results, broken)
    failed = sorted([*broken, *((r["image"], r["error"]) for r in results if r["error"])])
    statuses = {r["image"]: str(r["status"]) for r in results if not r["error"]}
    kept = {image: status for image, status in statuses.items() if status in GROUND_KEPT}
    kept = kept if settings.kind == "cutout" else {}
    made, counted = report.computed[stage.name], Counter(statuses.values())
    return Cutouts(out, len(found.files), made, counted, failed, found.ignored, found.unlisted, kept)


def _same_settings(stage: Cutout, work: Cache, force: bool) -> None:
    """Refuse to mix results of different settings in one folder."""
    path = stage.described(work)
    if path.is_dir() or (work.root.exists() and not work.root.is_dir()):
        raise UsageError(f"'{path}' is not what rembg keeps there.", "Name another folder with --out.")
    if force or not path.is_file():
        return
    hint = "Name another folder with --out, or replace them with --force."
    if not (before := stage.recorded_recipe(work)):
        raise UsageError(f"'{path}' is damaged: it does not say how the results were made.", hint)
    if changes := stage.recipe.changes(before):
        raise UsageError(f"The results in '{stage.out}' were made with other settings ({'; '.join(changes)}).", hint)


def _check_report(path: Path, images: Sequence[str]) -> None:
    """Refuse to put rembg.csv in the place of anything but an earlier one.

    Raises:
        UsageError: a file of another origin or a folder is there, or a folder of photos has that name.
    """
    if path.is_dir() or any(image.casefold().startswith(f"{REPORT}/") for image in images):
        raise UsageError(f"The list of results takes the name '{REPORT}', which is that of a folder.", "Rename it.")
    if path.is_file():
        with path.open("rb") as file:
            ours = file.readline().rstrip(b"\r\n") == ",".join(HEADER).encode()
        if not ours:
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


def _report(path: Path, results: Sequence[dict[str, Any]], broken: Sequence[tuple[str, str]]) -> None:
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
