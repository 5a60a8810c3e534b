"""What a cache holds, what of it is out of date and why. Reads only."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep.crops.crop import NAME as CROP
from maskprep.errors import UsageError, UserError
from maskprep.faces.reasons import compare
from maskprep.faces.subjects import Subjects
from maskprep.labels import collect as relabel
from maskprep.labels import inventory
from maskprep.labels.inventory import Inventory
from maskprep.labels.schema import Schema
from maskprep.mattes import planes
from maskprep.mattes.matte import NAME as MATTE
from maskprep.mattes.overlap import NAME as OVERLAP
from maskprep.pipeline import bring as pipeline
from maskprep.pipeline.job import (
    STAGE_FILE,
    VIEW_FILE,
    Job,
    Wanted,
    identity_changes,
    read_identity,
    want_crops,
    want_faces,
    want_index,
    want_mattes,
)
from maskprep.pipeline.overlap_stage import overlap_identity
from maskprep.store.shards import live_rows, read_index
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
    labels: Inventory | None = None


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
        if job.seeks_faces:
            stages.append(_keyed(want_faces(job, images), cache.rows("detect")))
            upstream = upstream or bool(stages[-1].why)
        if job.seeks_faces and overlap_identity(job.config):
            stages.append(_overlaps(job, len(images), upstream))
            upstream = upstream or bool(stages[-1].why)
        current = inputs_of(cache.subjects) == pipeline.subjects_inputs(job)
        stages.append(_table("choose", cache.subjects, len(images), current, upstream))
        upstream = upstream or bool(stages[-1].why)
        waits = upstream  # crops do not depend on what comes now
        stages.append(_labels(job, schema, len(images), upstream))
        upstream = upstream or bool(stages[-1].why)
        current = inputs_of(cache.duplicates) == pipeline.duplicates_inputs(job)
        stages.append(_table("duplicates", cache.duplicates, len(images), current, upstream))
        if current:
            counts["pairs"] = _count(read_table(cache.duplicates, ["kind"])["kind"])
    if cache.images.is_file() and cache.subjects.is_file():
        subjects = read_table(cache.subjects)
        counts["status"] = _count(subjects["status"])
        for view in job.config.views:
            if list(subjects["image"]) == list(images["image"]):
                wanted = want_crops(job, view, images, subjects)
                stage = _keyed(wanted, cache.view(view), VIEW_FILE)
            else:
                stage = StageStatus(f"{CROP}:{view}", 0, 0, folder_size(cache.view(view)), "waits for 'choose'")
            if waits and not stage.why:
                stage = StageStatus(**{**vars(stage), "why": "an earlier stage is out of date"})
            stages.append(stage)
            if job.config.matte is not None and job.config.matte.covers(view):
                stages.append(_mattes(job, view, images, subjects, bool(stage.why)))
    labels = inventory.take(images, schema, source_labels(job)) if cache.images.is_file() else None
    return Status(stages, counts, folder_size(cache.root), labels)


def source_labels(job: Job) -> dict[str, Any]:
    """Where labels came from, as dataset.json has it; empty for caches of earlier versions."""
    return dict(job.cache.read()["source"].get("labels", {}))


def _overlaps(job: Job, images: int, upstream: bool) -> StageStatus:
    """How much of each face the mattes of whole photos hold: a column of faces.parquet."""
    folder, cache = job.cache.rows(OVERLAP), job.cache
    detected = live_rows(cache.rows("detect"), want_faces(job, read_table(cache.images)).pairs)
    rows, size = len(read_index(folder)), folder_size(folder)
    if upstream:
        return StageStatus(OVERLAP, rows, 0, size, "an earlier stage is out of date")
    inputs, made_from = pipeline.faces_inputs(job, detected), inputs_of(cache.faces)
    if made_from != inputs and made_from.startswith(inputs):
        lost = int(made_from.removeprefix(inputs).split()[1])
        return StageStatus(OVERLAP, rows, lost, size, "some photos failed")
    current = made_from == inputs
    return StageStatus(OVERLAP, rows, 0 if current else images, size, "" if current else "its settings changed")


def _mattes(job: Job, view: str, images: pd.DataFrame, subjects: pd.DataFrame, upstream: bool) -> StageStatus:
    name, folder = f"{MATTE}:{view}", job.cache.view(view)
    size = sum(path.stat().st_size for path in folder.glob("alpha-*"))
    if list(subjects["image"]) != list(images["image"]):
        return StageStatus(name, 0, 0, size, "waits for 'choose'")
    try:
        wanted = want_mattes(job, view, want_crops(job, view, images, subjects), images, subjects)
    except UserError as problem:  # the model is not here
        return StageStatus(name, 0, 0, size, problem.message)
    have = pd.concat([planes.current(folder), read_index(wanted.folder)], ignore_index=True)
    stage = _keyed(wanted, folder, planes.DESCRIPTION, have)
    why = stage.why or ("an earlier stage is out of date" if upstream else "")
    return StageStatus(name, stage.rows, stage.missing, size, why)


def _keyed(
    wanted: Wanted, folder: Path, identity_file: str = STAGE_FILE, have: pd.DataFrame | None = None
) -> StageStatus:
    have = read_index(folder) if have is None else have
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


def _table(
    name: str, path: Path, rows: int, current: bool, upstream: bool, reason: str = "its settings changed"
) -> StageStatus:
    size = path.stat().st_size if path.is_file() else 0
    if current and not upstream:
        return StageStatus(name, rows, 0, size)
    why = "not made yet" if not size else "an earlier stage is out of date" if upstream else reason
    return StageStatus(name, 0, rows, size, why)


def _labels(job: Job, schema: Schema, rows: int, upstream: bool) -> StageStatus:
    path = job.cache.labels
    try:
        fixes = relabel.gather(job.config.labels, job.cache.decisions)
    except UserError as error:  # a file of fixes is gone or broken: for people to read, not to fail at
        return StageStatus("labels", 0, rows, path.stat().st_size if path.is_file() else 0, error.message)
    current = inputs_of(path) == pipeline.labels_inputs(job, schema, fixes)
    return _table("labels", path, rows, current, upstream, "its schema or fixes changed")


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
        fixed = json.loads(str(said.pop("source", "{}")))
        values = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in said.items()]
        lines.append(f"labels    {', '.join(values) or 'none'}")
        for field, change in fixed.items():
            why = ", ".join(change[key] for key in ("reason", "source") if key in change)
            was = "none" if change["was"] is None else change["was"]
            lines.append(f"  {field} was {was}; changed by {change['by']}" + (f" ({why})" if why else ""))
    if job.cache.duplicates.is_file():
        pairs = read_table(job.cache.duplicates)
        for pair in pairs[(pairs["image_a"] == image) | (pairs["image_b"] == image)].to_dict("records"):
            other = pair["image_b"] if pair["image_a"] == image else pair["image_a"]
            what = "the same file" if pair["kind"] == "exact" else f"nearly the same, {pair['distance']} bits apart"
            lines.append(f"copy      {other} ({what})")
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


def _explain_mattes(job: Job, image: str) -> list[str]:
    """What there is to say about an image's mattes, per view."""
    lines = []
    for view in job.cache.views():
        path = job.cache.view(view) / planes.MATTES
        mattes = read_table(path).set_index("image") if path.is_file() else pd.DataFrame()
        if image in mattes.index:
            row = mattes.loc[image]
            seen: str = "" if pd.isna(row["face_coverage"]) else f", of the face {row['face_coverage']:.2f} were seen"
            parts = f"{row['components']} part{'s' if row['components'] != 1 else ''}"
            said = f"covers {row['coverage']:.2f}{seen}, {parts}, {row['border_share']:.2f} of the border"
            lines.append(f"matte     {view}: {row['status']}, {said} ({row['model']})")
    return lines


def _explain_stages(job: Job, image: str, images: pd.DataFrame) -> list[str]:
    lines = []
    stages = [(want_index(job), STAGE_FILE)]
    if job.seeks_faces:
        stages.append((want_faces(job, images), STAGE_FILE))
    subjects = read_table(job.cache.subjects) if job.cache.subjects.is_file() else None
    if subjects is not None and list(subjects["image"]) == list(images["image"]):
        stages += [(want_crops(job, view, images, subjects), VIEW_FILE) for view in job.config.views]
        if job.config.matte is not None:
            lines.extend(_explain_mattes(job, image))
            for view in filter(job.config.matte.covers, job.config.views):
                with contextlib.suppress(UserError):  # the model is not here
                    crops = want_crops(job, view, images, subjects)
                    stages.append((want_mattes(job, view, crops, images, subjects), planes.DESCRIPTION))
    for wanted, identity_file in stages:
        keys = [key for name, key in wanted.pairs if name == image]
        matted = wanted.name.startswith(f"{MATTE}:")
        folder = job.cache.view(wanted.name.partition(":")[2]) if matted else wanted.folder
        have = planes.current(folder) if matted else read_index(folder)
        mine = have[have["image"] == image]
        if not keys:
            state = "not wanted"
        elif keys[0] in set(mine["key"]):
            at = mine[mine["key"] == keys[0]].iloc[0]
            state = f"current (shard {at['shard']:05d}, row {at['row']}, key {keys[0][:12]})"
        elif len(mine):
            changes = identity_changes(read_identity(folder / identity_file), wanted.identity)
            state = f"out of date: {'; '.join(changes) or 'the photo or its subject changed'}"
        else:
            state = "not made yet"
        lines.append(f"{wanted.name:<9} {state}")
    return lines
