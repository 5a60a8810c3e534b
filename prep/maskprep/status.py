"""What a cache holds, what of it is out of date and why. Reads only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep import pipeline
from maskprep.errors import UsageError
from maskprep.faces.subjects import Subjects
from maskprep.faces.words import compare
from maskprep.job import STAGE_FILE, VIEW_FILE, Job, Wanted, plain, read_identity, want_crops, want_faces, want_index
from maskprep.labels.schema import Schema
from maskprep.pixels.cropping import NAME as CROP
from maskprep.store.shards import read_index
from maskprep.store.tables import inputs_of, read_table


@dataclass(frozen=True)
class StageStatus:
    """One stage of a cache.

    Args:
        name: index, detect, choose, labels or crop:<view>.
        rows: rows that are current.
        missing: rows that the next run will make.
        size: bytes on disk.
        why: what is out of date and why; empty when all is current.
    """

    name: str
    rows: int
    missing: int
    size: int
    why: str = ""


@dataclass(frozen=True)
class Status:
    """A whole cache: its stages and how many images have which status, split and error."""

    stages: list[StageStatus]
    counts: dict[str, dict[str, int]]
    size: int


def survey(job: Job) -> Status:
    """Compare a cache with its photos and settings."""
    cache = job.cache
    schema = Schema.from_dict(cache.read()["schema"])
    found = want_index(job)
    stages = [_keyed(found, cache.rows("index"))]
    counts: dict[str, dict[str, int]] = {}
    upstream = bool(stages[0].why)
    if cache.images.is_file():
        images = read_table(cache.images)
        counts["split"] = _count(images["split"])
        counts["error"] = _count(images["error"].dropna())
        gone = set(images["image"]) - {image for image, _ in found.pairs}
        if gone:
            stages[0] = StageStatus(**{**vars(stages[0]), "why": _join(stages[0].why, f"{len(gone)} photos are gone")})
        upstream = bool(stages[0].why)
        stages.append(_keyed(want_faces(job, images), cache.rows("detect")))
        upstream = upstream or bool(stages[-1].why)
        current = inputs_of(cache.subjects) == pipeline.subjects_inputs(job)
        stages.append(_table("choose", cache.subjects, len(images), current, upstream))
        upstream = upstream or bool(stages[-1].why)
        current = inputs_of(cache.labels) == pipeline.labels_inputs(job, schema)
        stages.append(_table("labels", cache.labels, len(images), current, upstream))
    if cache.images.is_file() and cache.subjects.is_file():
        subjects = read_table(cache.subjects)
        counts["status"] = _count(subjects["status"])
        for view in job.config.views:
            if list(subjects["image"]) == list(images["image"]):
                wanted = want_crops(job, view, images, subjects)
                stage = _keyed(wanted, cache.view(view), VIEW_FILE)
            else:
                stage = StageStatus(f"{CROP}:{view}", 0, 0, folder_size(cache.view(view)), "waits for 'choose'")
            if upstream and not stage.why:
                stage = StageStatus(**{**vars(stage), "why": "an earlier stage is out of date"})
            stages.append(stage)
    return Status(stages, counts, folder_size(cache.root))


def _keyed(wanted: Wanted, folder: Path, identity_file: str = STAGE_FILE) -> StageStatus:
    have = read_index(folder)
    pairs = set(zip(have["image"], have["key"], strict=True))
    images = set(have["image"])
    missing = [image for image, key in wanted.pairs if (image, key) not in pairs]
    before = read_identity(folder / identity_file)
    why = ""
    if missing and before and (differences := identity_changes(before, wanted.identity)):
        why = "; ".join(differences)
    elif missing:
        kinds = Counter("new" if image not in images else "changed" for image in missing)
        why = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    return StageStatus(wanted.name, len(wanted.pairs) - len(missing), len(missing), folder_size(folder), why)


def _table(name: str, path: Path, rows: int, current: bool, upstream: bool) -> StageStatus:
    size = path.stat().st_size if path.is_file() else 0
    if current and not upstream:
        return StageStatus(name, rows, 0, size)
    why = "not made yet" if not size else "an earlier stage is out of date" if upstream else "its settings changed"
    return StageStatus(name, 0, rows, size, why)


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


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _count(column: pd.Series[Any]) -> dict[str, int]:
    return {str(k): int(v) for k, v in column.value_counts().sort_index().items()}


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


# ---------------------------------------------------------------- one image


def find_image(images: pd.DataFrame, name: str, root: Path) -> str:
    """The image that a user means: the key itself, a path to the file, or an unambiguous end of it.

    Raises:
        UsageError: none or several fit.
    """
    known = list(images["image"])
    if name in set(known):
        return name
    path = Path(name).resolve()
    if path.is_relative_to(root) and (key := path.relative_to(root).as_posix()) in set(known):
        return key
    tail = PurePosixPath(name).parts
    ends = [image for image in known if PurePosixPath(image).parts[-len(tail) :] == tail]
    if len(ends) == 1:
        return str(ends[0])
    if ends:
        raise UsageError(f"'{name}' may mean {len(ends)} images: {', '.join(ends[:4])}, ...", "Give more of the path.")
    raise UsageError(f"The cache has no image '{name}'.", "See images.parquet for the names.")


def explain(job: Job, name: str) -> list[str]:
    """Why one image is as it is and whether it is current, in sentences.

    Raises:
        UsageError: there is no such image.
        UserError: the cache has no tables yet.
    """
    images = read_table(job.cache.images)
    image = find_image(images, name, job.root)
    row = images[images["image"] == image].iloc[0]
    lines = [f"image     {image}"]
    if isinstance(row["error"], str):
        lines.append(f"file      {row['error']}" + (f" ({row['detail']})" if isinstance(row["detail"], str) else ""))
    else:
        turned = f", turned upright (EXIF orientation {row['orientation']})" if row["orientation"] != 1 else ""
        lines.append(f"file      {row['format']}, {row['width']:.0f}x{row['height']:.0f}, {row['bytes']} bytes{turned}")
    lines.append(f"content   {row['content']}")
    if job.cache.subjects.is_file() and job.cache.faces.is_file():
        lines.extend(_explain_choice(job, image))
    if job.cache.labels.is_file():
        labels = read_table(job.cache.labels)
        mine = labels[labels["image"] == image].drop(columns="image")
        said = mine.iloc[0].dropna().to_dict() if len(mine) else {}
        values = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in said.items()]
        lines.append(f"labels    {', '.join(values) or 'none'}")
    lines.extend(_explain_stages(job, image, images))
    return lines


def _explain_choice(job: Job, image: str) -> list[str]:
    chooser: Subjects = pipeline.open_subjects(job)
    choice = chooser.choose(image)
    box = "" if choice.box is None else " box " + ", ".join(f"{v:.0f}" for v in choice.box)
    lines = [f"subject   {choice.status}{box}" + (f" — {choice.reason}" if choice.reason else "")]
    if choice.status == "unreadable":
        return lines
    ranked = chooser.candidates(image)
    chosen = next((c for c in ranked if c.face.faces[0] == choice.face), None)
    for candidate in ranked:
        face = candidate.face
        mine = "the subject" if face.faces[0] == choice.face else "not chosen"
        signals = ", ".join(f"{name} {value:.2f}" for name, value in candidate.signals.items())
        size = f"{face.box[2] - face.box[0]:.0f}x{face.box[3] - face.box[1]:.0f} px"
        lines.append(f"  face {face.faces[0]:<3} mark {candidate.mark:.2f}, {mine}; {size}; {signals}")
        if chosen is not None and candidate is not chosen and choice.status != "decided":
            lines.append(f"           face {choice.face} and not this one: {compare(chosen, candidate)}")
    return lines + [f"  {sentence}" for sentence in chooser.not_faces(image)]


def _explain_stages(job: Job, image: str, images: pd.DataFrame) -> list[str]:
    lines = []
    stages = [(want_index(job), STAGE_FILE), (want_faces(job, images), STAGE_FILE)]
    subjects = read_table(job.cache.subjects) if job.cache.subjects.is_file() else None
    if subjects is not None and list(subjects["image"]) == list(images["image"]):
        stages += [(want_crops(job, view, images, subjects), VIEW_FILE) for view in job.config.views]
    for wanted, identity_file in stages:
        keys = [key for name, key in wanted.pairs if name == image]
        have = read_index(wanted.folder)
        mine = have[have["image"] == image]
        if not keys:
            state = "not wanted"
        elif keys[0] in set(mine["key"]):
            at = mine[mine["key"] == keys[0]].iloc[0]
            state = f"current (shard {at['shard']:05d}, row {at['row']}, key {keys[0][:12]})"
        elif len(mine):
            changes = identity_changes(read_identity(wanted.folder / identity_file), wanted.identity)
            state = f"out of date: {'; '.join(changes) or 'the photo or its subject changed'}"
        else:
            state = "not made yet"
        lines.append(f"{wanted.name:<9} {state}")
    return lines
