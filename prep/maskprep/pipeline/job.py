"""One command at work on one cache: its settings, and what every stage is to hold.

What a stage wants is a list of (image, key) pairs. A key is a hash of everything its row depends on: the photo's
content, the stage's version and settings, the weights; declared, never pickled code.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskprep.base.files import write_json
from maskprep.base.progress import Progress, Silent
from maskprep.crops import crop as cropping
from maskprep.crops.geometry import INSIDE, REFLECT, shows_photo_only
from maskprep.errors import UsageError
from maskprep.faces import detect as detection
from maskprep.faces.detectors import DETECTORS
from maskprep.faces.subjects import given_boxes
from maskprep.labels.changes import Changes
from maskprep.labels.lists import some
from maskprep.labels.schema import Schema
from maskprep.mattes import matte as mattes
from maskprep.mattes import models as matte_models
from maskprep.mattes import planes
from maskprep.photos import index as indexing
from maskprep.photos.decode import heic_available
from maskprep.photos.walk import walk
from maskprep.pipeline import config as configuration
from maskprep.pipeline.config import CONFIG_NAME, Config
from maskprep.store import pool as engines
from maskprep.store.cache import Cache, is_cache, resolve
from maskprep.store.pool import Row, Stage, Task
from maskprep.store.shards import Pair, drop_damaged, finish, live_rows, plan
from maskprep.store.tables import fingerprint

STAGE_FILE = "stage.json"
VIEW_FILE = "view.json"
INDEX_FILE = "index.parquet"
"""In a view's folder: the live rows (image, shard, row), what a reader of the crops starts from."""


@dataclass
class Job:
    """One command at work on one cache.

    Args:
        cache: the cache.
        root: the photo folder, absolute.
        config: what the cache is to hold.
        config_path: maskprep.yaml in use, None without one.
        workers: number of processes.
        engine: one of ENGINES.
        progress: where progress is reported.
        computed: rows made by this job, per stage.
        failed: photos of which something could not be made this time, with why; the next run tries again.
        notes: sentences for the user.
        ignored: files that are no photos, counted by reason.
        unlisted: folders among the photos that cannot be listed, with why.
        layout: layout of the photo folder.
        detected: whether the layout was told by looking at the folder.
        crew: the workers of this command.
        changes: what the fixes made of the labels, once that is known.
        faces_wanted: whether faces are looked for; None: where a view shows them.
    """

    cache: Cache
    root: Path
    config: Config
    config_path: Path | None = None
    workers: int = 1
    engine: str = "processes"
    progress: Progress = field(default_factory=Silent)
    computed: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    unlisted: list[str] = field(default_factory=list)
    layout: str = ""
    detected: bool = True
    crew: engines.Crew = field(default_factory=engines.Crew)
    changes: Changes = field(default_factory=Changes)
    faces_wanted: bool | None = None

    @property
    def seeks_faces(self) -> bool:
        """Whether faces are looked for: not where all views show whole photos or their middle."""
        return self.config.shows_faces if self.faces_wanted is None else self.faces_wanted

    def path(self, image: str) -> Path:
        """The photo file of an image."""
        return self.root / image


@dataclass(frozen=True)
class Wanted:
    """What a keyed stage is to hold: pairs with the input rows that make them, and the identity of the stage."""

    name: str
    folder: Path
    identity: dict[str, Any]
    pairs: list[Pair]
    rows: list[Row]


def available_workers() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_job(
    source: Path,
    cache: Path | None = None,
    config: Path | None = None,
    *,
    workers: int | None = None,
    engine: str = "processes",
    progress: Progress | None = None,
) -> Job:
    """Resolve a command's arguments: which cache, which photos, which settings.

    Args:
        source: photo folder or cache.
        cache: where the cache is wanted (default ``cache/<name of the photo folder>``).
        config: a maskprep.yaml; by default the one in the photo folder, or the one the cache was made with.
        workers: processes; by default as many as there are cores.
        engine: ``processes`` or ``serial``.
        progress: where progress is reported.

    Raises:
        UserError: see :func:`maskprep.store.cache.resolve` and :func:`maskprep.pipeline.config.load`.
    """
    engines.check(engine, workers)
    found, root = resolve(source, cache)
    base, path = Config(), config
    if is_cache(found.root):
        recorded = found.read()
        base = configuration.parse({**recorded["settings"], "source": recorded["source"]["settings"]})
        if recorded["source"]["schema_given"]:
            base = dataclasses.replace(base, schema=Schema.from_dict(recorded["schema"]))
        if path is None and recorded["source"]["config"] and Path(recorded["source"]["config"]).is_file():
            path = Path(recorded["source"]["config"])
    if path is None and (root / CONFIG_NAME).is_file():
        path = root / CONFIG_NAME
    loaded = configuration.load(path, base) if path else base
    changed = configuration.differences(base, loaded) if is_cache(found.root) else []
    if (
        loaded.matte is not None and loaded.matte is base.matte and not loaded.matte.views
    ):  # once they were not recorded
        matted = tuple(view for view in loaded.views if (found.view(view) / planes.DESCRIPTION).is_file())
        loaded = dataclasses.replace(loaded, matte=dataclasses.replace(loaded.matte, views=matted))
    return Job(
        found,
        root,
        loaded,
        path.resolve() if path else None,
        workers or available_workers(),
        engine,
        progress or Silent(),
        notes=[f"'{path}' counts before what the cache was made with: {some(changed)}."] if changed else [],
    )


def want_index(job: Job) -> Wanted:
    """Every photo file, keyed by its name, size and time of last change."""
    found = walk(job.root)
    job.ignored, job.unlisted = found.ignored, found.unlisted
    identity = {
        "version": indexing.VERSION,
        "settings": dataclasses.asdict(job.config.index) | {"heic": heic_available()},
        "weights": {},
    }
    stage = fingerprint(indexing.NAME, identity)
    pairs = [(file.image, fingerprint(file.image, file.size, file.mtime_ns, stage)) for file in found.files]
    rows: list[Row] = [{"path": os.fspath(job.path(file.image)), "broken": file.broken} for file in found.files]
    return Wanted(indexing.NAME, job.cache.rows(indexing.NAME), identity, pairs, rows)


def want_faces(job: Job, images: pd.DataFrame) -> Wanted:
    """Every photo that can be decoded, keyed by its content."""
    settings = job.config.detect
    identity = {
        "version": detection.VERSION,
        "settings": {name: settings.threshold(name) for name in settings.detectors} | {"low": settings.low},
        "weights": {name: DETECTORS[name].sha256 for name in settings.detectors},
    }
    stage = fingerprint(detection.NAME, identity)
    readable = images[images["error"].isna() & ~images["image"].isin(given_boxes(images))]
    pairs = [(i, fingerprint(p, stage)) for i, p in zip(readable["image"], indexing.pictures(readable), strict=True)]
    rows: list[Row] = [{"path": os.fspath(job.path(image))} for image, _ in pairs]
    return Wanted(detection.NAME, job.cache.rows(detection.NAME), identity, pairs, rows)


def want_crops(job: Job, view: str, images: pd.DataFrame, subjects: pd.DataFrame) -> Wanted:
    """Every image that has a subject (or needs none), keyed by its content, box and the view's geometry.

    A crop that lies within its photo is the same under the borders ``inside`` and ``reflect``, and so is its key.
    """
    settings = job.config.views[view]
    identity = {"version": cropping.VERSION, "settings": settings.to_dict(), "weights": {}}
    stage = fingerprint(cropping.NAME, identity)
    plainly = fingerprint(cropping.NAME, {**identity, "settings": {**settings.to_dict(), "border": REFLECT}})
    pairs: list[Pair] = []
    rows: list[Row] = []
    columns = [images["image"], indexing.pictures(images), images["width"], images["height"]]
    columns += [subjects[c] for c in ("status", "x0", "y0", "x1", "y1", "keypoints")]
    for image, picture, width, height, status, *box, points in zip(*columns, strict=True):
        seen = settings.crop == "face"
        if status in ("unreadable", "dropped") or (seen and pd.isna(box[0])):
            continue
        corners = (float(box[0]), float(box[1]), float(box[2]), float(box[3])) if seen else None
        turned = [float(v) for v in points] if seen and settings.align != "none" and points is not None else None
        made_with = stage
        if settings.border == INSIDE:
            keypoints = None if turned is None else np.reshape(turned, (4, 2))
            if shows_photo_only(settings, (int(height), int(width)), corners, keypoints):
                made_with = plainly
        pairs.append((image, fingerprint(picture, corners, turned, made_with)))
        rows.append({"path": os.fspath(job.path(image)), "box": corners, "keypoints": turned})
    return Wanted(f"{cropping.NAME}:{view}", job.cache.view(view), identity, pairs, rows)


def want_mattes(job: Job, view: str, crops: Wanted, images: pd.DataFrame, subjects: pd.DataFrame) -> Wanted:
    """Every crop of a view, keyed by the crop, the face in it, the settings and the model.

    The rows lack what only the finished crops tell: where their pixels lie, and their transforms.

    Raises:
        UserError: there are no matte settings, or the model's file cannot be had.
    """
    settings = job.config.matte
    if settings is None:
        raise UsageError("The cache has no settings for mattes.", f"Make mattes with: maskprep rembg {job.cache.root}")
    identity = settings.identity(matte_models.locate(settings.model))
    stage = fingerprint(mattes.NAME, identity)
    photos = {i: (w, h) for i, w, h in zip(images["image"], images["width"], images["height"], strict=True)}
    columns = (subjects[c] for c in ("image", "status", "x0", "y0", "x1", "y1"))
    faces = {image: (status, box) for image, status, *box in zip(*columns, strict=True)}
    pairs: list[Pair] = []
    rows: list[Row] = []
    for image, key in crops.pairs:
        status, box = faces[image]
        known = job.seeks_faces and not any(pd.isna(v) for v in box)
        corners = tuple(float(v) for v in box) if known else None
        seen = known and status in ("ok", "given", "ambiguous", "decided")  # a rescued box is a guess, not a face
        pairs.append((image, fingerprint(key, corners, seen, stage)))
        width, height = (int(v) for v in photos[image])
        size = {"width": width, "height": height}
        rows.append({"photo": os.fspath(job.path(image)), **size, "box": corners, "force": seen})
    return Wanted(f"{mattes.NAME}:{view}", job.cache.rows(f"{mattes.NAME}-{view}"), identity, pairs, rows)


# ---------------------------------------------------------------- making what is missing


def fill(job: Job, wanted: Wanted, stage: Stage, rows_per_shard: int) -> bool:
    """Make a stage's missing shards. Returns whether there were any; what failed is in :attr:`Job.failed`."""
    chunks = plan(wanted.folder, wanted.pairs, rows_per_shard)
    if chunks:
        inputs = dict(zip(wanted.pairs, wanted.rows, strict=True))
        tasks = [Task(wanted.folder, chunk, tuple(inputs[pair] for pair in chunk.pairs)) for chunk in chunks]
        total = sum(len(task.rows) for task in tasks)
        job.progress.start(wanted.name, total)
        failed = job.crew.run(stage, tasks, job.progress.advance)
        job.computed[wanted.name] += total - len(failed)
        job.failed |= dict(sorted(failed))
        if failed:
            examples = some([f"{image}: {why}" for image, why in sorted(failed)])
            job.notes.append(f"{len(failed)} photos failed in '{wanted.name}' ({examples}); the next run tries again.")
    return bool(chunks)


def make_rows(job: Job, wanted: Wanted, stage: Stage, rows_per_shard: int) -> pd.DataFrame:
    """Bring a stage that has no table of its own up to date. Returns where its live rows lie, sorted by image."""
    if stage.array_shape is not None:
        drop_damaged(wanted.folder, stage.array_shape)
    fill(job, wanted, stage, rows_per_shard)
    close(wanted)
    return live_rows(wanted.folder, wanted.pairs)


def close(wanted: Wanted) -> None:
    """Tidy a stage whose rows are assembled into a table, and note what they were made with."""
    finish(wanted.folder, wanted.pairs)
    path = wanted.folder / STAGE_FILE
    if read_identity(path) != plain(wanted.identity):
        wanted.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"stage": wanted.identity})


# ---------------------------------------------------------------- identities


def read_identity(path: Path) -> dict[str, Any]:
    """Version, settings and weights that the rows beside ``path`` (stage.json, view.json) were made with."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = data.get("stage") if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}


def plain(value: Any) -> Any:
    """A value as JSON would give it back: tuples as lists, NumPy scalars as Python's."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def identity_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, how a stage's version, settings and weights differ from those its rows were made with."""
    changes = []
    if before.get("version") != now["version"]:
        changes.append(f"version {before.get('version')} → {now['version']}")
    for part in ("settings", "weights"):
        old, new = before.get(part, {}), plain(now[part])
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                values = "changed" if part == "weights" else f"{_say(old.get(key))} → {_say(new.get(key))}"
                changes.append(f"{key} {values}" if part == "settings" else f"weights of {key} {values}")
    return changes


def _say(value: Any) -> str:
    return "none" if value is None else "x".join(map(str, value)) if isinstance(value, list) else str(value)
