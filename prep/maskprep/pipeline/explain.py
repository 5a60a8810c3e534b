"""What a cache holds, what of it is out of date and why. Reads only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.base import counted, counts, html_table
from maskprep.faces import compare
from maskprep.labels import Inventory, Schema, inventory
from maskprep.mattes import planes
from maskprep.photos import find_image
from maskprep.pipeline.session import Session
from maskprep.store import Cache, MapStage, Stage, StageStatus, Tables, TableStage, folder_size, read_table


@dataclass(frozen=True)
class Status:
    """A whole cache: its stages and how many images have which status, split and error."""

    stages: list[StageStatus]
    counts: dict[str, dict[str, int]]
    size: int
    labels: Inventory | None = None


def survey(session: Session) -> Status:
    """Compare a cache with its photos and settings."""
    cache = session.cache
    schema = Schema.from_dict(cache.read()["schema"])
    tables = session.tables(audit=cache.rows("measure").is_dir())
    stages: dict[str, StageStatus] = {}
    for stage in tables.stages.values():
        upstream = any(stages[name].why for name in stage.needs if name in stages)
        stages[stage.name] = _waits(stage, tables) or stage.status(tables, upstream)
    counts: dict[str, dict[str, int]] = {}
    labels = None
    if cache.images.is_file():
        images = tables.table("images")
        counts["split"] = _count(images["split"])
        counts["error"] = _count(images["error"].dropna())
        labels = inventory.take(images, schema, cache.read()["source"])
    if not stages["duplicates"].why:
        counts["pairs"] = _count(read_table(cache.duplicates, ["kind"])["kind"])
    if cache.subjects.is_file():
        counts["status"] = _count(read_table(cache.subjects, ["status"])["status"])
    return Status(list(stages.values()), counts, folder_size(cache.root), labels)


def _waits(stage: Stage, tables: Tables) -> StageStatus | None:
    """The status of a stage that cannot be judged, as a table that it needs is not there."""
    for name in stage.needs:
        source = tables.stages.get(name)
        if isinstance(source, TableStage) and not source.path(tables.cache).is_file():
            return StageStatus(stage.name, 0, 0, 0, f"waits for '{name}'")
    if "choose" in stage.needs and list(tables.table("choose")["image"]) != list(tables.table("images")["image"]):
        return StageStatus(stage.name, 0, 0, 0, "waits for 'choose'")
    return None


def _count(column: pd.Series[Any]) -> dict[str, int]:
    return {str(k): int(v) for k, v in column.value_counts().sort_index().items()}


# ---------------------------------------------------------------- one image


def explain(session: Session, name: str) -> list[str]:
    """Why one image is as it is and whether it is current, in sentences.

    Raises:
        UsageError: there is no such image.
        UserError: the cache has no tables yet.
    """
    tables = session.tables()
    images = tables.table("images")
    image = find_image(images["image"].tolist(), name, session.root)
    row = images[images["image"] == image].iloc[0]
    if isinstance(row["error"], str):
        file = row["error"] + (f" ({row['detail']})" if isinstance(row["detail"], str) else "")
    else:
        turned = f", turned upright (EXIF orientation {row['orientation']})" if row["orientation"] != 1 else ""
        file = f"{row['format']}, {row['width']:.0f}x{row['height']:.0f}, {row['bytes']} bytes{turned}"
    lines = [f"image     {image}", f"file      {file}", f"content   {row['content']}"]
    if session.cache.subjects.is_file() and session.cache.faces.is_file():
        lines.extend(_explain_choice(session, image))
    if session.cache.labels.is_file():
        labels = read_table(session.cache.labels)
        mine = labels[labels["image"] == image].drop(columns="image")
        said = mine.iloc[0].dropna().to_dict() if len(mine) else {}
        fixed = json.loads(str(said.pop("source", "{}")))
        values = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in said.items()]
        lines.append(f"labels    {', '.join(values) or 'none'}")
        for field, change in fixed.items():
            why = ", ".join(change[key] for key in ("reason", "source") if key in change)
            was = "none" if change["was"] is None else change["was"]
            lines.append(f"  {field} was {was}; changed by {change['by']}" + (f" ({why})" if why else ""))
    if session.cache.duplicates.is_file():
        pairs = read_table(session.cache.duplicates)
        for pair in pairs[(pairs["image_a"] == image) | (pairs["image_b"] == image)].to_dict("records"):
            other = pair["image_b"] if pair["image_a"] == image else pair["image_a"]
            what = (
                "the same file"
                if pair["kind"] == "exact"
                else f"nearly identical, {counted(pair['distance'], 'bit')} apart"
            )
            lines.append(f"copy      {other} ({what})")
    lines.extend(_explain_mattes(session.cache, image))
    for stage in tables.stages.values():
        if isinstance(stage, MapStage):
            waits = _waits(stage, tables)
            lines.append(f"{stage.name:<9} {waits.why if waits else stage.explain(tables, image)}")
    return lines


def _explain_choice(session: Session, image: str) -> list[str]:
    chooser = session.subjects()
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


def _explain_mattes(cache: Cache, image: str) -> list[str]:
    """What there is to say about an image's mattes, per view."""
    lines = []
    for view in cache.views():
        path = cache.view(view) / planes.MATTES
        mattes = read_table(path).set_index("image") if path.is_file() else pd.DataFrame()
        if image in mattes.index:
            row = mattes.loc[image]
            seen: str = (
                "" if pd.isna(row["face_coverage"]) else f", the model saw {row['face_coverage']:.0%} of the face"
            )
            parts = f"{row['components']} piece{'s' if row['components'] != 1 else ''}"
            said = f"covers {row['coverage']:.0%} of the crop{seen}, {parts}, {row['border_share']:.0%} of the border"
            lines.append(f"matte     {view}: {row['status']}, {said} ({row['model']})")
    return lines


def overview(session: Session) -> str:
    """HTML of what a cache holds, by status, split, error and label, for notebooks."""
    status = survey(session)
    rows: list[dict[str, object]] = [
        {"what": what, "counts": counts(numbers.items())} for what, numbers in status.counts.items() if numbers
    ]
    if status.labels:
        rows += [{"what": label.name, "counts": counts(label.counts.items())} for label in status.labels.attributes]
    old = [stage.name for stage in status.stages if stage.why]
    return html_table(f"{session.cache.root}" + (f"\nout of date: {', '.join(old)}" if old else ""), rows)
