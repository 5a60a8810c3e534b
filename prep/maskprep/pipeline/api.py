"""What the commands do, as plain functions with the same names and defaults."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maskprep.base.colours import TRANSPARENT
from maskprep.base.progress import Progress
from maskprep.crops.geometry import ViewSettings
from maskprep.dataset.view import DEFAULT_VIEW
from maskprep.errors import UsageError
from maskprep.labels import collect as relabelling
from maskprep.labels.leakage import Duplicates, allow_pairs, open_duplicates
from maskprep.labels.schema import Schema
from maskprep.mattes import models as matte_models
from maskprep.mattes.cutouts import Cutouts, cut_folder, cut_photo
from maskprep.mattes.matte import MatteSettings
from maskprep.mattes.runtime import check_runtime, open_model
from maskprep.pipeline import bring as pipeline
from maskprep.pipeline import config as configuration
from maskprep.pipeline.config import Config, check_view_name
from maskprep.pipeline.job import Job, open_job
from maskprep.pipeline.status import find_image
from maskprep.store import decisions
from maskprep.store.cache import is_cache
from maskprep.store.tables import read_table


def index(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    layout: str | None = None,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """List, hash and decode every photo once: images.parquet. See :func:`run` for the arguments."""
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    _set_layout(job, layout)
    pipeline.bring(job, upto="index")
    return job


def detect(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Find all faces and choose the subjects, without cutting crops. See :func:`run` for the arguments.

    Raises:
        UsageError: no view of the cache shows faces.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    if not job.seeks_faces:
        raise UsageError(
            f"No view of '{job.cache.root}' shows faces, so none are looked for.",
            f"Add one with: maskprep crop {job.cache.root} --view faces --crop face",
        )
    pipeline.bring(job, views=())
    return job


def crop(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    view: str = DEFAULT_VIEW,
    size: tuple[int, int] | None = None,
    margin: float | None = None,
    align: str | None = None,
    crop: str | None = None,
    border: str | None = None,
    zoom: float | None = None,
    no_face: str | None = None,
    detectors: tuple[str, ...] | None = None,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Find the faces, choose the subject of every photo and cut the crops of one view.

    Args:
        source: photo folder or cache; see :func:`run`.
        cache: see :func:`run`.
        config: see :func:`run`.
        view: name of the set of crops.
        size: height and width in pixels. This and the following: None keeps what the cache or maskprep.yaml says.
        margin: added on each side of the face, relative to its longer side.
        align: none, eyes or similarity.
        crop: face, centre or none.
        border: inside, reflect, replicate, constant or blur.
        zoom: how many times larger a centred crop shows the middle, at least 1.
        no_face: rescue, whole, drop or error.
        detectors: names of the detectors that look at every photo.
        workers: see :func:`run`.
        engine: see :func:`run`.
        progress: see :func:`run`.
    """
    check_view_name(view)
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    fresh = not is_cache(job.cache.root) and job.config.views == Config().views
    views = {} if fresh else dict(job.config.views)
    edits: dict[str, Any] = {"size": size, "margin": margin, "align": align, "crop": crop, "border": border}
    edits["zoom"] = zoom if zoom is not None or crop in (None, "centre") else 1.0  # other crops have none
    views[view] = dataclasses.replace(views.get(view, ViewSettings()), **_given(edits))
    job.config = dataclasses.replace(
        job.config,
        views=views,
        choose=dataclasses.replace(job.config.choose, **_given({"no_face": no_face})),
        detect=dataclasses.replace(job.config.detect, **_given({"detectors": detectors})),
    )
    pipeline.bring(job, views=[view], matted=False)
    return job


def rembg(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    view: str | None = None,
    model: str | None = None,
    on: str | None = None,
    refine: str | None = None,
    runtime: str | None = None,
    providers: Sequence[str] | None = None,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Separate the subject of every crop from the background: one soft matte per crop.

    Args:
        source: photo folder or cache; see :func:`run`.
        cache: see :func:`run`.
        config: see :func:`run`.
        view: which crops; None for those that there are now. A view that is added later gets mattes when it is asked
            for, or where maskprep.yaml has a section ``matte`` that names no views.
        model: name of a model or path of an ONNX file. This and the following: None keeps what the cache says.
        on: crop, or photo (the whole photo is looked at, and its matte cropped).
        refine: none, guided or closed-form.
        runtime: onnxruntime or openvino.
        providers: what onnxruntime runs on, such as ``cuda``.
        workers: see :func:`run`.
        engine: see :func:`run`.
        progress: see :func:`run`.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    before = job.config.matte
    named = None if model is None else matte_models.find(model).name
    chosen = None if providers is None else tuple(providers)
    edits = _given({"model": named, "on": on, "refine": refine, "runtime": runtime, "providers": chosen})
    if view is not None and view not in job.config.views:
        raise UsageError(f"There is no view '{view}'.", f"Known views: {', '.join(job.config.views)}.")
    if job.config_path is None or configuration.load(job.config_path).matte is None:  # else the file says which views
        earlier = () if before is None else before.views
        edits["views"] = tuple(dict.fromkeys([*earlier, *([view] if view is not None else job.config.views)]))
    settings = dataclasses.replace(before or MatteSettings(), **edits)
    job.config = dataclasses.replace(job.config, matte=settings)
    local = matte_models.locate(settings.model)  # before any long work, and before the cache remembers it
    check_runtime(settings.runtime, settings.providers)
    if not local.model.weight:  # a file of one's own may be anything
        with open_model(local, 1, settings.runtime, settings.providers):
            pass
    pipeline.bring(job, views=[view] if view is not None else [v for v in job.config.views if settings.covers(v)])
    return job


def cutouts(
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
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Cutouts:
    """Cut the person out of every photo below a folder, or out of one photo (``out`` is then a PNG file).

    See :func:`maskprep.mattes.cutouts.cut_folder` and :func:`maskprep.mattes.cutouts.cut_photo` for the arguments.
    """
    if source.is_file():
        return cut_photo(
            source,
            out,
            model=model,
            refinement=refinement,
            runtime=runtime,
            providers=providers,
            kind=kind,
            background=background,
            force=force,
        )
    return cut_folder(
        source,
        out,
        model=model,
        refinement=refinement,
        runtime=runtime,
        providers=providers,
        kind=kind,
        background=background,
        force=force,
        workers=workers,
        engine=engine,
        progress=progress,
    )


def run(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    layout: str | None = None,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Bring every stage and every view up to date.

    Args:
        source: photo folder (never written to) or cache.
        cache: where the cache is wanted; by default ``cache/<name of the photo folder>``.
        config: a maskprep.yaml; by default the one in the photo folder.
        layout: how labels are told, one of :data:`maskprep.labels.layouts.LAYOUTS`; by default as before, or by looking
            at the folder.
        workers: processes; by default as many as there are cores.
        engine: ``processes`` or ``serial``.
        progress: where progress is reported.

    Returns:
        What was done: computed rows per stage and notes for the user.

    Raises:
        UserError: anything the user can mend.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    _set_layout(job, layout)
    pipeline.bring(job)
    return job


def stats(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Mean and standard deviation of every view: stats.json, after bringing the crops up to date. See :func:`run`."""
    return run(source, cache, config, workers=workers, engine=engine, progress=progress)


def relabel(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    fixes: Sequence[Path] | None = None,
    preset: str | None = None,
    min_agree: int | None = None,
    dry_run: bool = False,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Apply fixes to the labels; the cache remembers them. What they do is the job's ``changes``.

    Args:
        source: photo folder or cache; see :func:`run`.
        cache: see :func:`run`.
        config: see :func:`run`.
        fixes: CSV or YAML files (:mod:`maskprep.labels.fixes`), in place of those remembered; empty for none. This and
            the following: None keeps what the cache or maskprep.yaml says.
        preset: a list of published label errors, ``none`` for none.
        min_agree: use those of the preset that at least so many published lists agree on.
        dry_run: only find out what the fixes would do. Photos are indexed if they are not, nothing else is written.
        workers: see :func:`run`.
        engine: see :func:`run`.
        progress: see :func:`run`.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    edits: dict[str, Any] = {"min_agree": min_agree}
    if fixes is not None:
        edits["fixes"] = tuple(os.fspath(Path(file).resolve()) for file in fixes)
    asked = dataclasses.replace(job.config.labels, **_given(edits))
    if preset is not None:
        asked = dataclasses.replace(asked, preset=None if preset == "none" else preset)
    relabelling.gather(asked, job.cache.decisions)  # a mistake in a fix is told before anything is done
    pipeline.bring(job, upto="index")
    schema = Schema.from_dict(job.cache.read()["schema"])
    changes = relabelling.preview(read_table(job.cache.images), schema, asked, job.cache.decisions)
    if dry_run:  # and fixes that cannot be applied never come to be remembered
        job.changes = changes
        return job
    job.config = dataclasses.replace(job.config, labels=asked)
    pipeline.bring(job, views=())
    return job


def duplicates(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    distance: int | None = None,
    allow: Iterable[str] = (),
    reason: str = "",
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Duplicates:
    """Find photos that are there twice. The cache is brought up to date, without cutting crops.

    Args:
        source: photo folder or cache; see :func:`run`.
        cache: see :func:`run`.
        config: see :func:`run`.
        distance: most bits of 256 in which near copies differ; None for the usual one. Others are not kept.
        allow: photos whose pairs across people or splits do no harm: a decision in decisions.csv.
        reason: why they do none.
        workers: see :func:`run`.
        engine: see :func:`run`.
        progress: see :func:`run`.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    pipeline.bring(job, views=())
    found = open_duplicates(job.cache, distance)
    names = [find_image(read_table(job.cache.images, ["image"]), name, job.root) for name in allow]
    if not names:
        return found
    when = datetime.now(UTC).isoformat(timespec="seconds")
    made = [each for name in names for each in allow_pairs(found, name, reason, decisions.login(), when)]
    decisions.change(job.cache.decisions, made)
    return open_duplicates(job.cache, distance)


def _set_layout(job: Job, layout: str | None) -> None:
    if layout is not None:
        job.config = dataclasses.replace(job.config, source=dataclasses.replace(job.config.source, layout=layout))


def _given(edits: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in edits.items() if value is not None}
