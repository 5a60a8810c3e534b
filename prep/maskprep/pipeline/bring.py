"""Bringing a cache up to date, stage by stage: index, detect, choose, labels, duplicates, crop, matte, stats.

Every stage asks which rows it wants, makes those that are missing, and assembles its table when its inputs changed.
Nothing changed means nothing computed.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

import maskprep
from maskprep.base.files import write_json
from maskprep.crops import crop as cropping
from maskprep.crops import statistics as stats
from maskprep.errors import UserError
from maskprep.faces import detect as detection
from maskprep.faces import subjects as choosing
from maskprep.faces.detectors import DETECTORS
from maskprep.labels import changes as changing
from maskprep.labels import collect as relabel
from maskprep.labels import duplicates as doubling
from maskprep.labels import layouts as sources
from maskprep.labels import table as labelling
from maskprep.labels.fixes import Fix
from maskprep.labels.lists import some
from maskprep.labels.schema import Schema
from maskprep.photos import index as indexing
from maskprep.pipeline import config as configuration
from maskprep.pipeline.crop_stage import make_crops, view_rows
from maskprep.pipeline.index_stage import index_rows
from maskprep.pipeline.job import (
    Job,
    close,
    fill,
    open_job,
    plain,
    want_faces,
    want_index,
)
from maskprep.pipeline.matte_stage import make_mattes, matte_entry
from maskprep.pipeline.overlap_stage import measure_overlaps, overlap_identity
from maskprep.store import pool as engines
from maskprep.store.cache import Cache, is_cache
from maskprep.store.decisions import of_faces, read_decisions
from maskprep.store.shards import live_rows, read_rows, sweep
from maskprep.store.tables import fingerprint, inputs_of, read_table, write_table


def bring(job: Job, *, upto: str = "stats", views: Iterable[str] | None = None, matted: bool = True) -> None:
    """Bring a cache up to date.

    Args:
        job: from :func:`open_job`.
        upto: ``index`` stops after images.parquet; anything later does everything.
        views: which views to cut, None for all of the configuration.
        matted: whether the views that are to have mattes get them.

    Raises:
        UserError: anything the user can mend.
        KeyboardInterrupt: stopped; all committed shards stay and the next run goes on from them.
    """
    with job.cache.lock(), engines.Crew(job.workers, job.engine) as job.crew:
        if upto != "index":
            relabel.gather(job.config.labels, job.cache.decisions)  # a mistake in a fix is told before the long work
        for folder in (job.cache.root, *job.cache.root.glob("stages/*"), *job.cache.root.glob("views/*")):
            sweep(folder)
        schema = make_index(job)
        if upto == "index":
            return
        make_faces(job)
        make_subjects(job)
        make_labels(job, schema)
        make_duplicates(job)
        for view in views if views is not None else job.config.views:
            to_be_matted = matted and job.config.matte is not None and job.config.matte.covers(view)
            make_crops(job, view, to_be_matted)
            if to_be_matted:
                make_mattes(job, view)
        make_stats(job)
        check_accounts(job.cache)
        if job.config.choose.no_face == "error":
            check_faces(job.cache)


def prepare(
    source: Path,
    cache: Path,
    settings: Mapping[str, Any],
    view: str,
    workers: int | None = None,
    *,
    matted: bool = False,
) -> None:
    """Crops of other photos by the settings of an earlier cache, as a trained run needs them.

    Args:
        source: photo folder.
        cache: a new or earlier cache of these photos.
        settings: the ``settings`` of the earlier cache's dataset.json.
        view: the only view that is cut.
        workers: processes; by default as many as there are cores.
        matted: whether the crops need mattes.
    """
    asked = configuration.parse(settings)
    if view not in asked.views:
        raise UserError(f"The settings hold no view '{view}', only: {', '.join(asked.views)}.")
    faces_needed = asked.needs_faces(view, matted)
    matte = None if asked.matte is None else dataclasses.replace(asked.matte, providers=())  # others may run here
    asked = dataclasses.replace(
        asked,
        views={view: asked.views[view]},
        labels=configuration.LabelSettings(),
        matte=matte if matted or overlap_identity(asked) else None,  # which may tell who the subject is
    )
    job = open_job(source, cache, workers=workers)
    job.config = dataclasses.replace(asked, source=job.config.source)
    job.faces_wanted = faces_needed
    bring(job, matted=matted)


# ---------------------------------------------------------------- the stages


def make_index(job: Job) -> Schema:
    """Stage ``index``: images.parquet and dataset.json. Returns the schema in force."""
    wanted = want_index(job)
    if not wanted.pairs:
        seen = ", ".join(f"{n} {what}" for what, n in job.ignored.most_common(3)) or "nothing at all"
        raise UserError(f"There are no photos in '{job.root}' (found: {seen}).", "Give the folder that holds them.")
    images = [image for image, _ in wanted.pairs]
    described = describe(job, images)
    job.layout = described.layout
    for name in described.lists:  # a table that was read is not passed over
        what = f"not a photo ({PurePosixPath(name).suffix.lower()})"
        if job.ignored[what] and (job.root / name).is_file():
            job.ignored[what] -= 1
    job.ignored = +job.ignored
    job.detected = job.config.source.layout == "auto"
    job.notes.extend(described.notes)
    _write_dataset(job, described)
    table = indexing.assemble(index_rows(job, wanted), described.table)
    inputs = fingerprint("images", table.to_pydict())  # by value: a photo that was only touched changes nothing
    if inputs_of(job.cache.images) != inputs:
        write_table(job.cache.images, table, inputs=inputs)
    job.notes.extend(labelling.unknown_values(described.table, described.schema))
    return described.schema


def describe(job: Job, images: Sequence[str]) -> sources.Described:
    """What the layout says of the photos. A cache keeps its layout: a table that appears does not replace its labels.

    Raises:
        UserError: the layout that is told by looking at the folder is another than before.
    """
    settings = job.config.source
    described = sources.describe(job.root, images, settings, job.config.schema)
    before = job.cache.read()["source"].get("layout") if is_cache(job.cache.root) else None
    if settings.layout != "auto" or before in (None, described.layout):
        return described
    now, lists = described.layout, f" ('{described.lists[0]}' names them)" if described.lists else ""
    if (before, now) == ("flat", "folders"):
        job.notes.append("Some photos lie in folders now; are these classes, say so with --layout folders.")
        return sources.describe(job.root, images, dataclasses.replace(settings, layout=before), job.config.schema)
    raise UserError(
        f"The photos of '{job.cache.root}' were read as layout '{before}', and look like '{now}' now{lists}.",
        f"Say which holds: maskprep index {job.cache.root} --layout {before}, or --layout {now} for new labels.",
    )


def make_faces(job: Job) -> None:
    """Stage ``detect``: faces.parquet; empty where no view shows faces, which are then not looked for."""
    if not job.seeks_faces:
        inputs = fingerprint("faces", detection.TABLE_VERSION, None)
        if inputs_of(job.cache.faces) != inputs:
            write_table(job.cache.faces, detection.TABLE.empty_table(), inputs=inputs)
        return
    wanted = want_faces(job, read_table(job.cache.images))
    settings = job.config.detect
    thresholds = {name: settings.threshold(name) for name in settings.detectors}
    stage = detection.DetectStage(thresholds, settings.low, job.config.index.max_megapixels)
    fill(job, wanted, stage, detection.ROWS_PER_SHARD)
    close(wanted)
    live = live_rows(wanted.folder, wanted.pairs)
    inputs = faces_inputs(job, live)
    if inputs_of(job.cache.faces) != inputs:
        rows = read_rows(wanted.folder, live)
        table = detection.assemble(rows) if rows is not None else detection.TABLE.empty_table()
        if overlap_identity(job.config):
            table, lost = measure_overlaps(job, table, live)
            inputs = incomplete(inputs, lost)
        if inputs_of(job.cache.faces) != inputs:
            write_table(job.cache.faces, table, inputs=inputs)


def incomplete(inputs: str, lost: Sequence[str]) -> str:
    """What a table is made from that lacks something of some photos: never current, so the next run tries again."""
    return f"{inputs} without {len(lost)} photos: {fingerprint('lost', list(lost))}" if lost else inputs


def faces_inputs(job: Job, live: pd.DataFrame) -> str:
    """What faces.parquet would be made from: the rows of the stage ``detect``, and the mattes of whole photos."""
    found = live[["image", "key"]].to_numpy().tolist()
    return fingerprint("faces", detection.TABLE_VERSION, found, overlap_identity(job.config))


def subjects_inputs(job: Job) -> str:
    """What subjects.parquet would be made from now."""
    settings = dataclasses.asdict(job.config.choose) if job.seeks_faces else None
    return fingerprint(
        "subjects",
        choosing.VERSION,
        settings,
        [dataclasses.astuple(ruling) for ruling in of_faces(read_decisions(job.cache.decisions))],
        inputs_of(job.cache.images),
        inputs_of(job.cache.faces),
    )


def open_subjects(job: Job) -> choosing.Subjects:
    """The choice of every subject, with what is needed to explain one."""
    images, faces = read_table(job.cache.images), read_table(job.cache.faces, needs=detection.TABLE.names)
    rulings = of_faces(read_decisions(job.cache.decisions))
    return choosing.Subjects(images, faces, job.config.choose, rulings, sought=job.seeks_faces)


def make_subjects(job: Job) -> None:
    """Stage ``choose``: subjects.parquet."""
    inputs = subjects_inputs(job)
    if inputs_of(job.cache.subjects) != inputs:
        chosen = open_subjects(job)
        job.progress.start("choose", len(chosen.images))
        write_table(job.cache.subjects, chosen.table(job.progress.advance), inputs=inputs)
        job.computed["choose"] += len(chosen.images)
        job.notes.extend(chosen.stale)
    elif job.cache.decisions.is_file():
        job.notes.extend(open_subjects(job).stale_rulings())


def labels_inputs(job: Job, schema: Schema, fixes: Sequence[Fix]) -> str:
    """What labels.parquet would be made from now."""
    made_from = (inputs_of(job.cache.images), inputs_of(job.cache.subjects))
    return fingerprint("labels", labelling.VERSION, schema.to_dict(), relabel.identity(fixes), *made_from)


def make_labels(job: Job, schema: Schema) -> None:
    """Stage ``labels``: labels.parquet, the labels as found with the fixes applied."""
    fixes = relabel.gather(job.config.labels, job.cache.decisions)
    inputs = labels_inputs(job, schema, fixes)
    current = inputs_of(job.cache.labels) == inputs
    if current and not fixes:
        return
    images = read_table(job.cache.images)
    job.changes = changing.apply(images, schema, fixes)
    job.notes.extend(relabel.notes(job.changes))
    if not current:
        subjects = read_table(job.cache.subjects)
        write_table(job.cache.labels, labelling.assemble(images, subjects, schema, job.changes), inputs=inputs)
        job.computed["labels"] += len(images)


def duplicates_inputs(job: Job) -> str:
    """What duplicates.parquet would be made from now."""
    people = _people(job.cache) if job.cache.labels.is_file() else []
    return fingerprint("duplicates", doubling.VERSION, doubling.NEAR, inputs_of(job.cache.images), people)


def _people(cache: Cache) -> list[str | None]:
    """The person of every image by labels.parquet, None where nobody is known."""
    return [p if isinstance(p, str) else None for p in read_table(cache.labels, ["person"])["person"]]


def make_duplicates(job: Job) -> None:
    """Stage ``duplicates``: duplicates.parquet, pairs of photos that are the same or nearly so."""
    inputs = duplicates_inputs(job)
    if inputs_of(job.cache.duplicates) == inputs:
        return
    images = read_table(job.cache.images, ["image", "content", "phash", "split", "error"])
    people = _people(job.cache)
    job.progress.start("duplicates", len(images))
    table = doubling.assemble(images, people)
    job.progress.advance(len(images))
    write_table(job.cache.duplicates, table, inputs=inputs)
    job.computed["duplicates"] += len(images)
    job.notes.extend(doubling.notes(table.to_pandas(), list(images["image"]), people))


def make_stats(job: Job) -> None:
    """Stage ``stats``: stats.json over every view of the cache."""
    split = read_table(job.cache.images, ["image", "split"]).set_index("image")["split"]
    result = {}
    for view in job.cache.views():
        rows = view_rows(job.cache, view)
        result[view] = stats.by_split(rows, rows["image"].map(split))
    text_before = job.cache.stats.read_bytes() if job.cache.stats.is_file() else b""
    write_json(job.cache.stats, result)
    if job.cache.stats.read_bytes() != text_before:
        job.computed["stats"] += len(result)


def check_accounts(cache: Cache) -> None:
    """Every photo has exactly one row in every table, or something is very wrong.

    Raises:
        UserError: the tables do not agree.
    """
    images = list(read_table(cache.images, ["image"])["image"])
    if doubles := sorted(image for image, count in Counter(images).items() if count > 1):
        raise UserError(f"Several photos have the same name in '{cache.images}': {some(doubles)}.", "Rename them.")
    for path in (cache.subjects, cache.labels):
        if list(read_table(path, ["image"])["image"]) != images:
            raise UserError(
                f"'{path}' does not list the same images as '{cache.images}'.", "Delete both and run the command again."
            )


def check_faces(cache: Cache) -> None:
    """The policy ``error`` for photos without a face.

    Raises:
        UserError: there are some, naming them.
    """
    subjects = read_table(cache.subjects, ["image", "status"])
    without = list(subjects[subjects["status"] == "no_face"]["image"])
    if without:
        raise UserError(
            f"{len(without)} photos have no face: {some(without)}.",
            "Look at them with maskprep faces, and rule on them in decisions.csv or choose another --no-face.",
        )


def write_log(job: Job, command: str, seconds: float) -> None:
    """Add the line of a finished command to log.jsonl."""
    statuses: dict[str, int] = {}
    if job.cache.subjects.is_file():
        counts = read_table(job.cache.subjects, ["status"])["status"].value_counts().sort_index()
        statuses = {str(k): int(v) for k, v in counts.items()}
    entry = {"command": command, "versions": {"maskprep": maskprep.__version__}, "computed": dict(job.computed)}
    job.cache.append_log({**entry, "counts": statuses, "seconds": round(seconds, 2)})


# ---------------------------------------------------------------- shared by the stages


def _write_dataset(job: Job, described: sources.Described) -> None:
    """Record what the cache is made from, before the first shard: an interrupted run goes on with the same settings."""
    detectors = job.config.detect.detectors if job.seeks_faces else ()
    job.cache.root.mkdir(parents=True, exist_ok=True)
    job.cache.write(
        {
            "source": {
                "root": os.fspath(job.root),
                "layout": described.layout,
                "labels": {
                    "origins": described.origins,
                    "unused": described.unused,
                    "refused": described.refused,
                    "lists": [name for name in described.lists if (job.root / name).is_file()],
                },
                "settings": dataclasses.asdict(job.config.source),
                "schema_given": job.config.schema is not None,
                "config": os.fspath(job.config_path) if job.config_path else None,
            },
            "schema": described.schema.to_dict(),
            "settings": plain(job.config.settings()),
            "stages": {
                "index": {"version": indexing.VERSION},
                "detect": {
                    "version": detection.VERSION,
                    "weights": {name: DETECTORS[name].sha256 for name in detectors},
                },
                "choose": {"version": choosing.VERSION},
                "labels": {"version": labelling.VERSION},
                "duplicates": {"version": doubling.VERSION},
                "crop": {"version": cropping.VERSION},
                **matte_entry(job),
            },
        }
    )
