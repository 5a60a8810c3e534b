"""What the commands do, as plain functions with the same names and defaults."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from maskprep import pipeline
from maskprep.config import Config, check_view_name
from maskprep.cutouts import Cutouts, cut_folder
from maskprep.dataset import DEFAULT_VIEW
from maskprep.errors import UsageError
from maskprep.job import Job, open_job
from maskprep.pixels import matte_models
from maskprep.pixels.crops import ViewSettings
from maskprep.pixels.mattes import MatteSettings
from maskprep.pixels.matting import check_runtime
from maskprep.progress import Progress
from maskprep.store.cache import is_cache


def index(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """List, hash and decode every photo once: images.parquet. See :func:`run` for the arguments."""
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
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
    """Find all faces and choose the subjects, without cutting crops. See :func:`run` for the arguments."""
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
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
        border: reflect, replicate or constant.
        no_face: rescue or drop.
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
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Separate the subject of every crop from the background: one soft matte per crop.

    Args:
        source: photo folder or cache; see :func:`run`.
        cache: see :func:`run`.
        config: see :func:`run`.
        view: which crops; None for those that have mattes already, or all.
        model: name of a model or path of an ONNX file. This and the following: None keeps what the cache says.
        on: crop, or photo (the whole photo is looked at, and its matte cropped).
        refine: none, guided or closed-form.
        runtime: onnxruntime or openvino.
        workers: see :func:`run`.
        engine: see :func:`run`.
        progress: see :func:`run`.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
    before = job.config.matte
    named = None if model is None else matte_models.find(model).name
    edits = _given({"model": named, "on": on, "refine": refine, "runtime": runtime})
    if view is not None:
        if view not in job.config.views:
            raise UsageError(f"There is no view '{view}'.", f"Known views: {', '.join(job.config.views)}.")
        earlier = () if before is None else before.views
        if before is None or earlier:
            edits["views"] = tuple(dict.fromkeys([*earlier, view]))
    settings = dataclasses.replace(before or MatteSettings(), **edits)
    job.config = dataclasses.replace(job.config, matte=settings)
    matte_models.locate(settings.model)  # before any long work
    check_runtime(settings.runtime)
    pipeline.bring(job, views=[view] if view is not None else [v for v in job.config.views if settings.covers(v)])
    return job


def cutouts(
    source: Path,
    out: Path,
    *,
    model: str = matte_models.DEFAULT,
    refinement: str = "none",
    runtime: str = "onnxruntime",
    kind: str = "cutout",
    force: bool = False,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Cutouts:
    """Cut the person out of every photo below a folder. See :func:`maskprep.cutouts.cut_folder` for the arguments."""
    return cut_folder(
        source,
        out,
        model=model,
        refinement=refinement,
        runtime=runtime,
        kind=kind,
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
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Bring every stage and every view up to date.

    Args:
        source: photo folder (never written to) or cache.
        cache: where the cache is wanted; by default ``cache/<name of the photo folder>``.
        config: a maskprep.yaml; by default the one in the photo folder.
        workers: processes; by default as many as there are cores.
        engine: ``processes`` or ``serial``.
        progress: where progress is reported.

    Returns:
        What was done: computed rows per stage and notes for the user.

    Raises:
        UserError: anything the user can mend.
    """
    job = open_job(source, cache, config, workers=workers, engine=engine, progress=progress)
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


def _given(edits: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in edits.items() if value is not None}
